"""How a process proves that it belongs to a run: by a token that only the run's processes know.

The token is the environment's TPR_RUN_TOKEN, which the scripts of `launch/` set, or else a file in the
workdir that the first process writes for its own user alone: all processes see that folder. It never crosses
the network: each side answers the other's random challenge with an HMAC of it.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from tpr_jax.errors import UserError

VARIABLE = "TPR_RUN_TOKEN"
FILE = ".rendezvous_token"  # in the workdir, while the processes meet
_SHORTEST = 16  # characters; what can be guessed protects nothing


def challenge() -> str:
    """Returns a random word that nobody can have answered before."""
    return secrets.token_hex(16)


def proof(token: str, *words) -> str:
    """Computes the HMAC-SHA256 of the words under the token, as hexadecimal digits."""
    return hmac.new(token.encode(), "\n".join(map(str, words)).encode(), hashlib.sha256).hexdigest()


def is_proof(told: str, token: str, *words) -> bool:
    """Returns whether `told` is the proof of these words; takes as long wherever the two differ."""
    return hmac.compare_digest(told.encode(), proof(token, *words).encode())


def read_variable(environment: Mapping[str, str]) -> str:
    """Returns the token that the environment gives, or "".

    Raises:
      UserError: it is too short to keep anybody out.
    """
    token = environment.get(VARIABLE, "").strip()
    if token and len(token) < _SHORTEST:
        raise UserError(
            f"{VARIABLE} has {len(token)} characters and needs {_SHORTEST} at least: "
            f'export {VARIABLE}="$(openssl rand -hex 16)", the same for all processes'
        )
    return token


@contextlib.contextmanager
def offered(environment: Mapping[str, str], workdir: str):
    """Gives the first process's token; where the environment has none, it lies in the workdir meanwhile.

    Raises:
      UserError: the environment has none, and the workdir is a bucket, where no file is for one user alone.
    """
    token = read_variable(environment)
    if token:
        yield token
        return
    path, token = _path(workdir), challenge()
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{FILE}.{os.getpid()}.tmp")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()  # of a process of this number that was killed
    with open(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(token)
    # Not `write_whole`, which gives files the permissions that others may read with.
    new.rename(path)
    try:
        yield token
    finally:
        with contextlib.suppress(OSError):
            if path.read_text() == token:
                path.unlink()
            for folder in made:  # a run that never began claims no folder
                folder.rmdir()


def reader(environment: Mapping[str, str], workdir: str) -> Callable[[], str]:
    """Returns `read()`, which gives the token to a process that is not the first, or "" while there is none.

    To be called at every attempt: a file that an earlier run left is replaced when the first process starts.
    """
    if token := read_variable(environment):
        return lambda: token
    path = _path(workdir)

    def read() -> str:
        try:
            return path.read_text().strip()
        except (OSError, UnicodeDecodeError):
            return ""

    return read


def _path(workdir: str) -> Path:
    if "://" in str(workdir):
        raise UserError(
            f"several processes with --workdir {workdir} need a token of the run in their environment: "
            f'export {VARIABLE}="$(openssl rand -hex 16)", the same for all of them'
        )
    return Path(workdir).absolute() / FILE
