"""What a run writes beside its checkpoints: config.json, metrics.jsonl, TensorBoard events, results.json."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from tpr_jax import events
from tpr_jax.errors import UserError
from tpr_jax.writing import write_text


def check_workdir(
    workdir: Path, config: dict, free: tuple[str, ...], defaults: Mapping = MappingProxyType({})
) -> None:
    """Makes the folder; where it holds a config.json, checks that it agrees with this config.

    Keys in `free` may differ. A key of `defaults` that config.json lacks had its value there: the run is from
    before there was such a key. Raises a UserError that names the first key that differs otherwise, or where
    nothing can be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir {workdir} cannot be made ({error.strerror}): choose another") from error
    try:
        # A bucket shows its folders to some who may not write there.
        with tempfile.NamedTemporaryFile(dir=workdir, prefix=".may_write."):
            pass
    except OSError as error:
        raise UserError(
            f"--workdir {workdir} cannot be written ({error.strerror}): see that this account may write that "
            "disk or bucket, or choose another"
        ) from error
    path = workdir / "config.json"
    if path.exists():
        try:
            before = dict(json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} is no JSON object ({error}): choose another --workdir") from error
        assumed = _flat(dict(defaults))
        for key in {**_flat(before), **_flat(config)}:
            old, new = _flat(before).get(key, assumed.get(key)), _flat(config).get(key)
            if old != new and key.split(".")[0] not in free:
                raise UserError(
                    f"--workdir {workdir} holds a run of another config: config.{key} was {old!r}, "
                    f"is now {new!r}: "
                    "choose another --workdir or the old value"
                )


def _flat(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def read_history(workdir: Path, up_to_step: int, evaluate_again: bool = False) -> list[dict]:
    """The rows of metrics.jsonl up to a step; later ones are dropped from the file, as is a line cut short.

    A resumed run logs those steps again, and with `evaluate_again` the scores at `up_to_step` too.
    """
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        again = evaluate_again and row["step"] == up_to_step and ("val" in row or "test" in row)
        if row["step"] <= up_to_step and not again:
            rows.append(row)
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def open_log(workdir: Path, history: list[dict]) -> tuple[Callable, Callable]:
    """(write, close): `write(row)` appends to metrics.jsonl, to TensorBoard and to `history`."""
    file = (workdir / "metrics.jsonl").open("a")
    board = events.open_events(workdir / "tensorboard")

    def write(row: dict) -> None:
        file.write(json.dumps(row) + "\n")
        file.flush()
        history.append(row)
        events.write_scalars(board, row["step"], _scalars(row))

    def close() -> None:
        file.close()
        board.close()

    return write, close


def secure(workdir: Path) -> None:
    """Brings what metrics.jsonl holds so far onto the disk, so that no checkpoint is ahead of it.

    A mounted bucket gets nothing of an open file else.
    """
    path = workdir / "metrics.jsonl"
    if path.exists():
        with path.open("r+") as file:
            os.fsync(file.fileno())


def _scalars(row: dict) -> dict[str, float]:
    """The numbers of a row by their path; those of a list by their index."""
    found = {}
    for key, value in _flat(row).items():
        items = {f"{key}/{i}": x for i, x in enumerate(value)} if isinstance(value, list) else {key: value}
        found |= {k.replace(".", "/"): x for k, x in items.items() if isinstance(x, int | float)}
    return found
