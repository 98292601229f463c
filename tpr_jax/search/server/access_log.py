"""The access log of queries: JSON lines in a file that only its owner can read."""

import contextlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from tpr_jax.errors import UserError


def describe_query(texts: Sequence[str], query: Mapping) -> dict:
    """Returns what the log holds of a query: its texts and condition, and which kind of image it had."""
    image = "uploaded" if query.get("image") is not None else query.get("like")
    return {
        "texts": list(texts),
        **{name: list(query.get(name) or ()) for name in ("without", "yes", "no")},
        "where": query.get("where"),
        "image": f"row {image}" if isinstance(image, int) else image,
    }


class AccessLog:
    """Appends a line per query.

    Args:
      path: the file; it is created with mode 0600, or gets that mode.
      warn: called with one line if a query cannot be logged, as on a full disk.
    """

    def __init__(self, path: str | os.PathLike, warn: Callable[[str], object]):
        """Opens the file. Raises UserError if it cannot be written."""
        self._path, self._warn, self._lock, self._failed = path, warn, threading.Lock(), False
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise UserError(f"--access_log {path}: cannot be written ({error.strerror})") from None
        with contextlib.suppress(OSError):  # of another user, or a device
            os.fchmod(self._file, 0o600)

    def record(self, user: str | None, address: str, query: dict, hits: int | None) -> None:
        """Appends a line.

        Args:
          user: who asked, None without accounts.
          address: where the query came from, "local" for the command line on this machine.
          query: what was asked: `texts`, `without`, `yes`, `no`, `where`, `image`.
          hits: number of results, None if the query failed.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "user": user, "address": address, **query, "hits": hits}
        try:
            with self._lock:
                os.write(self._file, json.dumps(line).encode() + b"\n")
            self._failed = False
        except OSError as error:
            if not self._failed:
                self._warn(f"warning: --access_log {self._path}: a query was not logged ({error.strerror})")
            self._failed = True

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)
