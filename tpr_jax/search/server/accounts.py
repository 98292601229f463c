"""Accounts of the server: names with passwords, and a token for programs.

Browsers log in with HTTP Basic (RFC 7617): they ask for name and password themselves and send them with
every request of the page. There is no login page, no cookie and no session that could be stolen or forged,
and requests from pages of other sites are rejected before (`guard`). Programs may send the token as a Bearer
token (RFC 6750) instead. Both travel as they are, so the connection needs TLS.
"""

import asyncio
import base64
import binascii
import getpass
import hashlib
import hmac
import os
import secrets
import stat
import sys
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tpr_jax.errors import UserError
from tpr_jax.search.server.guard import RateLimiter, Refusal, client_network

USER_KEY = "tpr_user"  # of the ASGI scope: the name that logged in
OPEN_PATHS = ("/healthz",)
MIN_TOKEN, MIN_PASSWORD = 16, 8  # characters
FAILURES_PER_SECOND = 0.1  # from one address, after a burst of five
# As OWASP's password storage cheat sheet recommends: 16 MiB and about 50 ms for each attempt.
_N, _R, _P = 2**14, 8, 1
_MAX_MEMORY = 64 * 2**20
_REMEMBERED = 1000  # logins whose password need not be hashed again
_TOKEN_USER = "token"


def hash_password(password: str) -> str:
    """Returns a salted scrypt hash: `scrypt$N$r$p$salt$hash`, the last two in hexadecimal digits."""
    salt = secrets.token_bytes(16)
    return f"scrypt${_N}${_R}${_P}${salt.hex()}${_scrypt(password, salt, _N, _R, _P).hex()}"


def check_password(password: str, stored: str) -> bool:
    """Returns whether a password has this hash. Takes the same time wherever the two differ."""
    _, n, r, p, salt, digest = stored.split("$")
    computed = _scrypt(password, bytes.fromhex(salt), int(n), int(r), int(p))
    return hmac.compare_digest(computed, bytes.fromhex(digest))


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=_MAX_MEMORY, dklen=32)


def read_new_password(name: str) -> str:
    """Asks for a new password on the terminal, or reads it from a line of stdin, and returns its line.

    Raises:
      UserError: the name or the password cannot be used, or the two entries differ.
    """
    if not name or ":" in name or not name.isprintable():
        raise UserError(f"{name!r}: a name has at least one letter, and no colon or line break")
    if sys.stdin.isatty():
        password = getpass.getpass(f"password of {name}: ")
        if getpass.getpass("again: ") != password:
            raise UserError("the two passwords differ: run the command again")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if len(password) < MIN_PASSWORD:
        raise UserError(f"the password of {name} must have at least {MIN_PASSWORD} characters")
    return f"{name}:{hash_password(password)}"


@dataclass(frozen=True)
class Accounts:
    """Who may use the server.

    Attributes:
      passwords: name -> hash, see `hash_password`.
      token: the token of programs; None if there is none.
    """

    passwords: Mapping[str, str] = field(default_factory=dict)
    token: str | None = None

    def __bool__(self) -> bool:
        return bool(self.passwords) or self.token is not None


def read_accounts(
    password_file: str | os.PathLike | None, token_env: str | None, log: Callable[[str], object]
) -> Accounts:
    """Reads the file of passwords, and the token from an environment variable.

    Args:
      password_file: lines `name:hash`; empty lines and those that begin with # are ignored.
      token_env: the name of the variable.
      log: called with a warning if others can read the file.

    Raises:
      UserError: the file cannot be read, or has no account or an invalid line; the variable is not set, or
        its value is short.
    """
    passwords = {} if password_file is None else _read_passwords(Path(password_file), log)
    if token_env is None:
        return Accounts(passwords)
    token = os.environ.get(token_env, "")
    if len(token) < MIN_TOKEN or not (token.isascii() and token.isprintable()) or " " in token:
        raise UserError(
            f"--token_env {token_env}: set this environment variable to at least {MIN_TOKEN} ASCII characters"
            " without spaces, such as the output of: python -c 'import secrets; print(secrets.token_hex())'"
        )
    return Accounts(passwords, token)


def _read_passwords(path: Path, log: Callable[[str], object]) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise UserError(f"--password_file {path}: cannot be read ({error})") from None
    found = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, stored = line.strip().partition(":")
        try:
            check_password("", stored)
        except (ValueError, TypeError, OverflowError, MemoryError):
            raise UserError(
                f"--password_file {path}: line {number} is not name:hash; make it with: python -m "
                "tpr_jax.search password NAME"
            ) from None
        if not name or name in found:
            raise UserError(f"--password_file {path}: line {number} has no name, or that of another line")
        found[name] = stored
    if not found:
        raise UserError(
            f"--password_file {path}: has no account; add one with: python -m tpr_jax.search password NAME "
            f">> {path}"
        )
    if stat.S_IMODE(mode) & 0o077:
        log(f"warning: {path}: other users of this machine may read it: chmod 600 {path}")
    return found


class RequireLogin:
    """ASGI middleware that lets only known users pass, and writes their name into the scope.

    Args:
      app: the application.
      accounts: the accounts.
      clock: returns the time in seconds.
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        accounts: Accounts,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.app, self.accounts = app, accounts
        self._failures = RateLimiter(FAILURES_PER_SECOND, clock)
        self._key = secrets.token_bytes(32)
        # Keyed digests of credentials that were right -> the user: hashing again takes 50 ms per photo.
        self._known: OrderedDict[bytes, str] = OrderedDict()
        self._unknown = hash_password(secrets.token_hex(16))  # compared with where there is no such name
        self._hashing = asyncio.Semaphore(2)

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Passes a request on, or answers 401, or 429 after too many wrong passwords from its address."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self.app(scope, receive, send)
            return
        header = dict(scope["headers"]).get(b"authorization", b"")
        user, wait = await self._login(header, client_network((scope.get("client") or ("",))[0]))
        if user is not None:
            scope[USER_KEY] = user
            await self.app(scope, receive, send)
            return
        if wait:
            refusal = Refusal(429, "too many wrong passwords: wait", {"retry-after": str(int(wait) + 1)})
        else:
            refusal = Refusal(401, "this server needs a login", {"www-authenticate": self._challenge()})
        for message in refusal.messages():
            await send(message)

    def _challenge(self) -> str:
        scheme = "Basic" if self.accounts.passwords else "Bearer"
        return f'{scheme} realm="tpr_jax search"' + (', charset="UTF-8"' if scheme == "Basic" else "")

    async def _login(self, header: bytes, network: str) -> tuple[str | None, float]:
        """Returns the user, or None and the seconds to wait after too many failures."""
        if not header:
            return None, 0.0
        digest = hmac.digest(self._key, header, "sha256")
        if (user := self._known.get(digest)) is not None:
            self._known.move_to_end(digest)
            return user, 0.0
        # Counted before it is checked, so that parallel attempts count too.
        if wait := self._failures.acquire(network, 1):
            return None, wait
        user = await self._check(header)
        if user is not None:
            self._failures.buckets.pop(network, None)
            self._known[digest] = user
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return user, 0.0

    async def _check(self, header: bytes) -> str | None:
        scheme, _, value = header.strip().partition(b" ")
        if scheme.lower() == b"bearer" and self.accounts.token is not None:
            is_right = hmac.compare_digest(value.strip(), self.accounts.token.encode())
            return _TOKEN_USER if is_right else None
        if scheme.lower() != b"basic" or not self.accounts.passwords:
            return None
        try:
            name, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            return None
        stored = self.accounts.passwords.get(name, self._unknown)
        async with self._hashing:
            is_right = await asyncio.to_thread(check_password, password, stored)
        return name if is_right and name in self.accounts.passwords else None
