"""Keeps two processes from writing to one folder, with an advisory lock that a crash releases.

The lock is `flock` on the file `.lock` in the folder. The file names the process that holds it and is removed
with the lock. If the file system has no locks, the folder is used unlocked and a warning is printed.
"""

import contextlib
import errno
import functools
import json
import os
import re
import socket
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import IO

from tpr_jax.errors import UserError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

NAME = ".lock"
# Some file systems report EACCES instead of EAGAIN.
_TAKEN = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)


def try_lock(file: IO) -> bool | None:
    """Locks an open file without waiting.

    Returns:
      True if this process now holds the lock, False if another one does, and None if the file system or the
      operating system has no locks.
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
) -> Generator[Callable[[str], None], None, None]:
    """Locks a folder against other processes that would write to it; creates it if needed.

    Args:
      folder: the folder; an address such as gs://bucket/run is not locked.
      flag: the command-line flag that names the folder, for messages.
      doing: what the holder of the lock does, for messages, such as "writing this index".
      say: prints a line if the file system has no locks.

    Yields:
      A function that records how far this process is, for the messages of others.

    Raises:
      UserError: another process holds the lock (the message names its number and host), or the folder cannot
        be written.
    """
    folder = Path(folder)
    if re.match(r"[a-z0-9]{2,}:/", str(folder)):
        yield lambda progress: None
        return
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    with _open(folder, flag) as file:
        file = _lock(file, folder, flag, doing, say)
        try:
            yield functools.partial(_write_holder, file)
        finally:
            # Removed while still locked: a process that has opened it sees that it is gone and opens the next
            # one.
            with contextlib.suppress(OSError):
                os.unlink(folder / NAME)
            with contextlib.suppress(OSError):  # on a full disk, the holder's name is still to be written
                file.close()
            for path in created:  # removes what is empty, so that a mistaken command leaves nothing behind
                with contextlib.suppress(OSError):
                    path.rmdir()


def _lock(file: IO, folder: Path, flag: str, doing: str, say: Callable[[str], object]) -> IO:
    """Locks the file, or the one that replaced it; returns it after writing this process's name into it."""
    while True:
        is_locked = try_lock(file)
        if is_locked is False:
            raise UserError(
                f"{flag} {folder}: another process is {doing}{_holder(file)}; wait until it is done"
            )
        if is_locked is None:
            say(f"{folder}: this file system has no locks: do not let two processes write there at once")
        if is_locked is None or _is_in_place(file, folder / NAME):
            break
        file.close()
        file = _open(folder, flag)
    _write_holder(file)
    return file


def _write_holder(file: IO, progress: str = "") -> None:
    with contextlib.suppress(OSError):  # the lock also holds if, for example, the disk is full
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "progress": progress}))
        file.flush()


def describe_holder(folder: str | os.PathLike) -> str | None:
    """Describes the process that holds a folder: " (process 12 on here, 3 of 9 photos)"; None if none does.

    The text is empty if a process holds the folder and it is not known which.
    """
    if fcntl is None:
        return None
    try:
        with open(Path(folder) / NAME, encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # released at once
            except OSError as error:
                return _holder(file) if error.errno in _TAKEN else None
    except OSError:
        pass
    return None


def _open(folder: Path, flag: str) -> IO:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _raise_if_full(error, folder)
        raise UserError(f"{flag} {folder} cannot be created ({error.strerror}): choose another") from error
    try:
        with contextlib.suppress(PermissionError):
            return open(folder / NAME, "a+", encoding="utf-8")
        return open(folder / NAME, encoding="utf-8")  # left by another account in a shared folder
    except OSError as error:
        _raise_if_full(error, folder)
        raise UserError(
            f"{flag} {folder} cannot be written ({error.strerror}): check that this account may write to "
            "that disk or bucket, or choose another"
        ) from error


def _raise_if_full(error: OSError, folder: Path) -> None:
    if error.errno == errno.ENOSPC:
        raise UserError(
            f"no space left on the disk of {folder}: free some space and rerun the same command to resume"
        ) from error


def _is_in_place(file: IO, path: Path) -> bool:
    """Returns whether the open file still has this path: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _holder(file: IO) -> str:
    """Returns the holder of the lock in parentheses, or '' if it is not known."""
    for _ in range(5):  # the holder writes its name right after it got the lock
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            file.seek(0)
            holder = json.loads(file.read())
            progress = f", {holder['progress']}" if holder["progress"] else ""
            return f" (process {int(holder['pid'])} on {holder['host']}{progress})"
        time.sleep(0.05)
    return ""
