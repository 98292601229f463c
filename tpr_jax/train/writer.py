"""The files of a run beside its checkpoints: config.json, metrics.jsonl, TensorBoard events, results.json."""

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from tpr_jax.errors import UserError, describe_disk_limit
from tpr_jax.train import events
from tpr_jax.utils.files import RANDOM, remove_leftovers, remove_matching, write_text, write_whole
from tpr_jax.utils.trees import flatten
from tpr_jax.weights.save_folder import remove_unfinished

# The files that a run writes, by folder: a killed run may have left temporary files of these.
FILES = {
    "": (
        "config.json",
        "metrics.jsonl",
        "metrics.damaged.jsonl",
        "results.json",
        "report.html",
        "report.png",
    ),
    "checkpoints": ("progress.json",),
}
# The files and folders that training replaces or adds to, and so expects to be of the same run.
TRAINED = (
    *("metrics.jsonl", "results.json", "report.html", "report.png"),
    *("checkpoints", "tensorboard", "model/config.json"),
)


def check_workdir(
    workdir: Path,
    config: dict,
    free: tuple[str, ...],
    defaults: Mapping = MappingProxyType({}),
    writes: Iterable[str] = TRAINED,
) -> None:
    """Creates the folder; if it holds a run, checks that the run has this config, else that it is free.

    Args:
      workdir: the folder of the run.
      config: the config as plain values.
      free: the keys whose values may differ.
      defaults: the values of keys that config.json lacks, because the run is older than the key.
      writes: the files and folders that the caller writes.

    Raises:
      UserError: a value differs, named by its key; the folder cannot be written; or it holds one of `writes`
        without a run that could have written it.
    """
    _check_writable(workdir)
    path = workdir / "config.json"
    # Listed before config.json is looked for, which another process of the run may write in between.
    found = [workdir / name for name in writes if _holds_files(workdir / name)]
    if not path.exists():
        if found and not _has_checkpoints(workdir):
            raise UserError(
                f"{found[0]}: is not of a run, as {workdir} has no config.json, and would be replaced or "
                "mixed with the new run's files: choose another --workdir, or move it away"
            )
        return
    try:
        saved = flatten(dict(json.loads(path.read_text())))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not a JSON object ({error}): choose another --workdir") from error
    assumed, given = flatten(defaults), flatten(config)
    for key in saved | given:
        old, new = saved.get(key, assumed.get(key)), given.get(key)
        if old != new and key.split("/")[0] not in free:
            raise UserError(
                f"--workdir {workdir} holds a run of another config: config.{key.replace('/', '.')} was "
                f"{old!r}, is now {new!r}: choose another --workdir or the old value"
            )


def _holds_files(path: Path) -> bool:
    """Returns whether a path is a file, or a folder with files in it that are not hidden.

    Empty folders do not count, because a run makes those of its checkpoints before config.json.
    """
    if not path.is_dir():
        return os.path.lexists(path)
    try:
        return any(_holds_files(inside) for inside in path.iterdir() if not inside.name.startswith("."))
    except OSError:  # a folder that this account may not list
        return True


def _has_checkpoints(workdir: Path) -> bool:
    """Returns whether a folder holds checkpoints, from which a run resumes without a config.json."""
    folders = [workdir / "checkpoints" / name for name in ("latest", "best")]
    return any(re.fullmatch(r"\d+", path.name) for folder in folders for path in folder.glob("*/"))


def _check_writable(workdir: Path) -> None:
    """Creates the folder and writes a temporary file into it."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--workdir {workdir} cannot be created ({error.strerror}): choose another"
        ) from error
    try:
        # A bucket may show its folders to accounts that may not write there.
        descriptor, name = tempfile.mkstemp(dir=workdir, prefix=".may_write.")
        os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):  # the first process cleans the folder meanwhile
            os.unlink(name)
    except OSError as error:
        raise UserError(
            f"--workdir {workdir} cannot be written ({error.strerror}): check that this account may write to "
            "that disk or bucket, or choose another"
        ) from error


def clean_workdir(workdir: Path) -> None:
    """Removes the incomplete files of a killed run: temporary files, and checkpoints under a temporary name.

    Only files with the names that this project or Orbax gives are removed. No other process may be training
    in the folder.
    """
    for folder, names in FILES.items():
        remove_leftovers(workdir / folder, names)
    remove_matching(workdir, rf"\.may_write\.{RANDOM}")
    for folder in ("model", "model/backbone"):
        remove_unfinished(workdir / folder)
    for name in ("latest", "best"):
        remove_matching(workdir / "checkpoints" / name, r"\d+\.orbax-checkpoint-tmp(-\d+)?")


def read_history(workdir: Path, up_to_step: int, evaluate_again: bool = False) -> list[dict]:
    """Returns the rows of metrics.jsonl up to a step, and removes the later ones from the file.

    A resumed run logs those steps again. Damaged lines are reported and removed as well, and the original
    file is kept beside it.

    Args:
      workdir: the folder of the run.
      up_to_step: the last step to keep.
      evaluate_again: whether to remove the scores at `up_to_step` too.

    Raises:
      UserError: the file, or the copy of a damaged one, cannot be read or written.
    """
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return []
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): move it away") from error
    parsed, bad = parse_rows(content)
    if bad:
        kept = _copy_beside(path)
        lines = f"line{'s' * (len(bad) > 1)} {', '.join(map(str, bad[:10]))}{', ...' * (len(bad) > 10)}"
        print(f"{path}: dropped {lines}, which cannot be read; the original file is kept as {kept.name}")
    rows = []
    for row in parsed:
        again = evaluate_again and row["step"] == up_to_step and ("val" in row or "test" in row)
        if row["step"] <= up_to_step and not again:
            rows.append(row)
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def parse_rows(content: bytes) -> tuple[list[dict], list[int]]:
    """Returns (the rows, the numbers of the damaged lines, from 1) of a metrics.jsonl.

    A row is an object with an integer `step`; its values are numbers, lists of numbers or such objects, and
    `val` and `test` hold all scores of both directions. Rows after a damaged line count.
    """
    rows, bad = [], []
    lines = content.split(b"\n")
    for number, line in enumerate(lines[:-1] if lines[-1] == b"" else lines, 1):
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            row = None
        if _is_row(row):
            rows.append(row)
        else:
            bad.append(number)
    return rows, bad


def _is_row(row) -> bool:
    if not isinstance(row, dict) or not _is_number(row.get("step"), int):
        return False
    if not _is_number(row.get("epoch", 0), int) or not _is_number(row.get("loss", 0)):
        return False
    if not all(_is_numbers(value) for value in row.values()):
        return False
    if not ("val" in row or "test" in row):
        return True
    from tpr_jax.metrics.retrieval import METRIC_KEYS  # imports Numba, which takes seconds

    scores = [row[split] for split in ("val", "test") if split in row]
    directions = [
        split.get(way) if isinstance(split, dict) else None for split in scores for way in ("t2i", "i2t")
    ]
    return all(isinstance(x, dict) and all(_is_number(x.get(key)) for key in METRIC_KEYS) for x in directions)


def _is_numbers(value) -> bool:
    if isinstance(value, dict):
        return all(map(_is_numbers, value.values()))
    return all(map(_is_number, value)) if isinstance(value, list) else _is_number(value)


def _is_number(value, kind=int | float) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _copy_beside(path: Path) -> Path:
    """Copies a damaged file to the first free name of metrics.damaged.jsonl, metrics.damaged.2.jsonl, ..."""
    number, copy = 1, path.with_name(f"{path.stem}.damaged{path.suffix}")
    while copy.exists():
        number += 1
        copy = path.with_name(f"{path.stem}.damaged.{number}{path.suffix}")
    write_whole(copy, lambda temporary: shutil.copyfile(path, temporary))
    return copy


class MetricWriter:
    """Appends rows to metrics.jsonl, to TensorBoard's events and to `history`.

    Attributes:
      history: all rows of the run so far, including those of earlier processes.
    """

    def __init__(self, workdir: Path, history: list[dict]):
        self.history = history
        self._file = (workdir / "metrics.jsonl").open("a")
        self._events = events.open_events(workdir / "tensorboard")

    def write(self, row: dict) -> None:
        """Writes a row, which has a `step`, and flushes it.

        Raises:
          UserError: the disk is full, or cannot be written.
        """
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
            self.history.append(row)
            events.write_scalars(self._events, row["step"], _scalars(row))
        except OSError as error:
            # What is still buffered would be written again, and fail again, when Python ends.
            with contextlib.suppress(OSError):
                self._file.close()
            path = error.filename or self._file.name
            line = describe_disk_limit(error, path)
            raise UserError(line or f"{path} cannot be written ({error.strerror}): check the disk") from error

    def close(self) -> None:
        """Closes both files."""
        self._file.close()
        self._events.close()


class NullWriter:
    """Takes the place of a `MetricWriter` in the processes that write nothing."""

    def __init__(self):
        self.history: list[dict] = []

    def write(self, row: dict) -> None:
        """Drops the row."""

    def close(self) -> None:
        """Does nothing."""


def fsync_metrics(workdir: Path) -> None:
    """Flushes metrics.jsonl to the disk, so that no checkpoint is ahead of it.

    Otherwise, a mounted bucket receives nothing of an open file.
    """
    path = workdir / "metrics.jsonl"
    if path.exists():
        with path.open("r+") as file:
            os.fsync(file.fileno())


def _scalars(row: dict) -> dict[str, float]:
    """Returns the numbers of a row by their path; for those of a list, it includes the index."""
    scalars = {}
    for path, value in flatten(row).items():
        items = {f"{path}/{i}": x for i, x in enumerate(value)} if isinstance(value, list) else {path: value}
        scalars |= {name: x for name, x in items.items() if isinstance(x, int | float)}
    return scalars
