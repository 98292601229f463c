"""Lets a process prove that it belongs to a run, by a token that only the run's processes know.

The token is the environment variable TPR_RUN_TOKEN, which the scripts of `launch/` set, or a file that the
first process writes to the shared workdir, readable only by its user. It never crosses the network: each side
answers the other's random challenge with an HMAC of it.
"""

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable, Generator, Mapping
from pathlib import Path

from tpr_jax.errors import UserError
from tpr_jax.utils.files import remove_matching

VARIABLE = "TPR_RUN_TOKEN"
FILE = ".rendezvous_token"  # in the workdir, until the processes have connected
_MIN_LENGTH = 16  # characters; a token that can be guessed protects nothing


def challenge() -> str:
    """Returns a random challenge, so that no earlier answer fits it."""
    return secrets.token_hex(16)


def proof(token: str, *words) -> str:
    """Computes the HMAC-SHA256 of the words under the token, as hexadecimal digits."""
    return hmac.new(token.encode(), "\n".join(map(str, words)).encode(), hashlib.sha256).hexdigest()


def is_proof(value: str, token: str, *words) -> bool:
    """Returns whether `value` is the proof of these words, by a comparison in constant time."""
    return hmac.compare_digest(value.encode(), proof(token, *words).encode())


def read_variable(environment: Mapping[str, str]) -> str:
    """Returns the token in the environment, or "".

    Raises:
      UserError: the token is too short.
    """
    token = environment.get(VARIABLE, "").strip()
    if token and len(token) < _MIN_LENGTH:
        raise UserError(
            f"{VARIABLE} has {len(token)} characters and needs at least {_MIN_LENGTH}: "
            f'export {VARIABLE}="$(openssl rand -hex 16)", the same for all processes'
        )
    return token


@contextlib.contextmanager
def offer_token(environment: Mapping[str, str], workdir: str) -> Generator[str, None, None]:
    """Yields the first process's token; without one in the environment, a file in the workdir offers it.

    Raises:
      UserError: the environment has no token, and the workdir is a bucket, where files cannot be private.
    """
    token = read_variable(environment)
    if token:
        yield token
        return
    path, token = _path(workdir), challenge()
    created = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_matching(path.parent, rf"{re.escape(FILE)}\.\d+\.tmp")  # left by a killed process
    temporary = path.with_name(f"{FILE}.{os.getpid()}.tmp")
    with open(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(token)
    # Not `write_whole`, whose files others may read.
    temporary.rename(path)
    try:
        yield token
    finally:
        with contextlib.suppress(OSError):
            if path.read_text() == token:
                path.unlink()
            for folder in created:  # a run that never began leaves no folder behind
                folder.rmdir()


def token_reader(environment: Mapping[str, str], workdir: str) -> Callable[[], str]:
    """Returns `read()`, which gives the token to a process that is not the first, or "" if there is none.

    Call it at every attempt: the first process replaces a file that an earlier run left.
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
