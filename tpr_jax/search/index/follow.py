"""Keeps an index up to date with its source: `python -m tpr_jax.search index SOURCE --index DIR --watch`.

The folder is looked at every few seconds. What is new is indexed once its size and modification time are the
same as at the look before, so that no file is read while it is still being written.
"""

import glob
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tpr_jax.errors import UserError
from tpr_jax.search.format import SKIPPED_FILE, format_skipped
from tpr_jax.search.index.gallery import NoPhotosError
from tpr_jax.utils.plural import counted

Log = Callable[[str], object]
Update = Callable[[list[str]], dict]


class _Stamp(NamedTuple):
    """Size in bytes and modification time in nanoseconds of a file."""

    size: int
    mtime_ns: int


Files = dict[str, _Stamp]


def look(source: Path, leave_out: Path) -> Files:
    """Returns the files of a folder, of a pattern, or a single file, by absolute path.

    Hidden files and folders, and the folder `leave_out`, are not among them.
    """
    if source.is_dir():
        paths, leave_out = [], Path(os.path.realpath(leave_out))
        for folder, folders, names in os.walk(os.path.realpath(source)):
            folders[:] = [n for n in folders if not n.startswith(".") and Path(folder, n) != leave_out]
            paths += [os.path.join(folder, name) for name in names if not name.startswith(".")]
    else:
        paths = [str(source)] if source.exists() else glob.glob(str(source), recursive=True)
    found = {}
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:  # removed, or a broken link
            continue
        found[os.path.abspath(path)] = _Stamp(status.st_size, status.st_mtime_ns)
    return found


class Watch:
    """Decides at each look whether there is something to index, and reports what came of it.

    Args:
      update: indexes the source without the files whose absolute paths it is given; returns the result of
        `build`.
      log: called with lines about what was indexed.
    """

    def __init__(self, update: Update, log: Log):
        self._update, self._log = update, log
        self._previous: Files | None = None
        self._indexed: Files = {}
        self._named: set[tuple[str, str]] = set()
        self._problem = ""

    def step(self, now: Files) -> bool:
        """Takes the files as they are now; returns whether it indexed them."""
        before, self._previous = self._previous, now
        # Whatever was there when the watch began counts as written, as it does for `index`.
        growing = {path for path in now if before is not None and before.get(path) != now[path]}
        settled = {path: stamp for path, stamp in now.items() if path not in growing}
        known = {path: stamp for path, stamp in self._indexed.items() if path not in growing}
        if settled == known or not settled:
            return False
        self._indexed = settled
        try:
            result = self._update(sorted(growing))
        except NoPhotosError as error:  # nothing yet, or only broken files
            self._say_problem(str(error))
            return False
        except UserError as error:
            if before is None:  # as of `index`: an argument is wrong
                raise
            self._say_problem(f"{error}; trying again")
            self._indexed = {}  # another process may be writing the index, or the disk may be full
            return False
        self._report(result)
        return True

    def _say_problem(self, problem: str) -> None:
        # How far another process is, in parentheses, is no other problem.
        if problem.partition(" (")[0] != self._problem.partition(" (")[0]:
            self._log(f"warning: {problem}")
        self._problem = problem

    def _report(self, result: dict) -> None:
        self._problem = ""
        skipped = [one for one in result.get("skipped", ()) if tuple(one) not in self._named]
        self._named.update(tuple(one) for one in skipped)
        for line in format_skipped(skipped, 10, SKIPPED_FILE):
            self._log(line)
        self._log(f"{counted(result['count'], 'photo')} indexed: {result['encoded']:,} new")


def follow(
    source: str | os.PathLike, folder: str | os.PathLike, seconds: float, update: Update, log: Log
) -> None:
    """Keeps an index up to date until KeyboardInterrupt.

    Args:
      source: as of `build` or `scan_source`.
      folder: the index.
      seconds: from one look to the next.
      update: see `Watch`.
      log: see `Watch`.

    Raises:
      UserError: the interval is invalid, or the first update fails.
      Stopped: a signal arrived while photos were indexed.
    """
    if not 0.1 <= seconds < float("inf"):
        raise UserError(f"--watch_every {seconds}: must be seconds from one look to the next, at least 0.1")
    log(f"watching {source} every {seconds:g} s (Ctrl-C ends it)")
    watch = Watch(update, log)
    while True:
        watch.step(look(Path(source), Path(folder)))
        time.sleep(seconds)


def exclusions(source: str | os.PathLike, growing: list[str]) -> list[str]:
    """Returns patterns that exclude these files of a folder and nothing else."""
    root = os.path.realpath(source)
    return [f"/{glob.escape(Path(os.path.relpath(path, root)).as_posix())}" for path in growing]
