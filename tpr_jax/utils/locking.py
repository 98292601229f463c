"""Keeps two processes from writing one folder: an advisory lock that a crash frees.

The lock is `flock` on the file `.lock` in the folder, which says who holds it and is gone when the holder is
done. File systems that cannot lock are used without, with a line that says so.
"""

import contextlib
import errno
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from tpr_jax.errors import UserError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

NAME = ".lock"
# EACCES is what some file systems say instead of EAGAIN.
_TAKEN = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)


def try_lock(file: IO) -> bool | None:
    """Locks an open file without waiting.

    Returns True if this process holds the lock now, False if another one does, and None where the file system
    (or the operating system) has no locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _TAKEN else None
    return True


@contextlib.contextmanager
def hold(
    folder: str | os.PathLike, flag: str, doing: str, say: Callable[[str], object] = print
) -> Iterator[None]:
    """Holds a folder, which is made where there is none, against other processes that would write into it.

    Args:
      folder: a folder; for an address such as gs://bucket/run nothing is locked.
      flag: the command-line flag that names the folder, for messages.
      doing: what a holder does, for the message to the others, such as "writing this index".
      say: gets a line where the file system has no locks.

    Raises:
      UserError: another process holds it; the message has its number and host. Or the folder cannot be
        written.
    """
    folder = Path(folder)
    if re.match(r"[a-z0-9]{2,}:/", str(folder)):
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with _open(folder, flag) as file:
        file = _lock(file, folder, flag, doing, say)
        try:
            yield
        finally:
            # While it is still held: who opened the file meanwhile sees that it is gone, and opens the next.
            with contextlib.suppress(OSError):
                os.unlink(folder / NAME)
            file.close()
            for path in made:  # nothing was written, so that a mistaken command leaves nothing
                with contextlib.suppress(OSError):
                    path.rmdir()


def _lock(file: IO, folder: Path, flag: str, doing: str, say: Callable[[str], object]) -> IO:
    """Locks the file, or the one that took its place; returns it with this process' name in it."""
    while True:
        held = try_lock(file)
        if held is False:
            raise UserError(
                f"{flag} {folder}: another process is {doing}{_holder(file)}; wait until it is done"
            )
        if held is None:
            say(f"{folder}: this file system has no locks: do not let two processes write there at once")
        if held is None or _is_in_place(file, folder / NAME):
            break
        file.close()
        file = _open(folder, flag)
    with contextlib.suppress(OSError):  # a full disk, say: the lock holds all the same
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        file.flush()
    return file


def _open(folder: Path, flag: str) -> IO:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _raise_if_full(error, folder)
        raise UserError(f"{flag} {folder} cannot be made ({error.strerror}): choose another") from error
    try:
        with contextlib.suppress(PermissionError):
            return open(folder / NAME, "a+", encoding="utf-8")
        return open(folder / NAME, encoding="utf-8")  # what another account left in a shared folder
    except OSError as error:
        _raise_if_full(error, folder)
        raise UserError(
            f"{flag} {folder} cannot be written ({error.strerror}): see that this account may write that "
            "disk or bucket, or choose another"
        ) from error


def _raise_if_full(error: OSError, folder: Path) -> None:
    if error.errno == errno.ENOSPC:
        raise UserError(
            f"no space left on the disk of {folder}: free some and run the same command to go on"
        ) from error


def _is_in_place(file: IO, path: Path) -> bool:
    """Whether the open file is still the one of this name: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _holder(file: IO) -> str:
    """Who holds the lock, in brackets; empty where that is not known."""
    for _ in range(5):  # it writes its name right after it got the lock
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            file.seek(0)
            found = json.loads(file.read())
            return f" (process {int(found['pid'])} on {found['host']})"
        time.sleep(0.05)
    return ""
