"""A file of finished work that survives a kill at any moment: a header, then JSON lines, one per piece.

The header says what the work belongs to; work that was done for something else does not count.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

from tpr_jax.errors import UserError, describe_disk_limit
from tpr_jax.utils.files import write_text


def read(path: Path, header: dict) -> list[dict]:
    """Returns the lines after the header, and removes a damaged line, and half a line, with what follows.

    Returns no lines if there is no file, or one with another header.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    lines, end = _whole_lines(content)
    if not lines or lines[0] != header:
        return []
    if end < len(content):
        os.truncate(path, end)
    return lines[1:]


def rewrite(path: Path, change: Callable[[dict], dict | None]) -> None:
    """Replaces each line after the header, and removes those for which `change` returns None.

    A damaged line is removed with what follows, as by `read`.

    Raises:
      UserError: the file cannot be written.
    """
    content = path.read_bytes()
    lines, _ = _whole_lines(content)
    changed = [*lines[:1], *(new for line in lines[1:] if (new := change(line)) is not None)]
    text = "".join(json.dumps(line) + "\n" for line in changed)
    if text.encode() != content:
        write_text(path, text)


def _whole_lines(content: bytes) -> tuple[list[dict], int]:
    """Returns the lines before the first that is damaged or cut off, and the number of their bytes."""
    lines, end = [], 0
    for line in content.splitlines(keepends=True):
        try:
            fields = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            fields = None
        if fields is None:
            break
        lines.append(fields)
        end += len(line)
    return lines, end


class LineLog:
    """Appends lines to such a file."""

    def __init__(self, path: Path, header: dict, resume: bool):
        """Opens a file, and begins a new one unless it is to be resumed. Raises UserError if it cannot."""
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "ab" if resume else "wb")  # noqa: SIM115 closed by `close`
        except OSError as error:
            raise self._error(error) from error
        if not resume:
            self.append(header)

    def append(self, fields: dict) -> None:
        """Appends a line. Raises UserError if it cannot be written, as on a full disk."""
        try:
            self._file.write(json.dumps(fields).encode() + b"\n")
            self._file.flush()  # to the system, which keeps it if this process is killed
        except OSError as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _error(self, error: OSError) -> UserError:
        reason = f"{self._path}: cannot be written ({error.strerror}); check the folder"
        return UserError(describe_disk_limit(error, self._path) or reason)
