"""Reads the outcomes of the runs of a comparison from their files."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tpr_jax.config import defaults as config_lib
from tpr_jax.metrics.remarks import remarks
from tpr_jax.metrics.retrieval import METRIC_KEYS
from tpr_jax.train import writer
from tpr_jax.weights import arguments

if TYPE_CHECKING:
    from tpr_jax.compare.runs import ComparisonRun

RECORD = "compare.json"  # written into the folder of a run when it ends: its exit code and config
# Whole numbers in the results of a run: those that every run has, and those that it may lack.
SIZES, OPTIONAL_SIZES = (
    ("trainable_params", "total_params"),
    ("steps", "peak_device_memory_bytes", "peak_memory_bytes"),
)

Scores = dict[str, dict[str, float]]  # direction -> metric -> percent


@dataclass(frozen=True)
class RunOutcome:
    """The outcome of a run; the numbers are only set if it is done.

    `seconds_per_step`, `memory_bytes` and `saved_bytes` may be unknown for a run that is done. The remarks
    say what its scores depend on.
    """

    status: Literal["done", "failed", "missing"]
    scores: Scores | None = None
    steps: int | None = None
    trainable_params: int | None = None
    total_params: int | None = None
    seconds_per_step: float | None = None
    memory_bytes: int | None = None
    saved_bytes: int | None = None
    remarks: tuple[str, ...] = ()


def is_complete(run: ComparisonRun) -> bool:
    """Returns whether the run ended with exit code 0 and this config, and its results are readable."""
    record = _read_json(run.folder / RECORD)
    ended_well = record.get("exit_code") == 0 and _has_same_config(record, run)
    return ended_well and is_readable(read_results(run))


def _has_same_config(record: dict, run: ComparisonRun) -> bool:
    """Returns whether a record has the run's config, except for keys that do not affect the results.

    A run may resume on data that was moved, but whether it is the same is not known before it has read them.
    """
    free = {*config_lib.FREE_ON_RESUME} - {"data_dir", "source", "on_bad_image"}
    free -= {"total_steps"} if run.mode == "train" else set()
    recorded = record.get("config", {})
    if not isinstance(recorded, dict):
        return False
    old, new = (
        {key: value for key, value in config.items() if key not in free} for config in (recorded, run.config)
    )
    return old == new


def read_outcome(run: ComparisonRun) -> RunOutcome:
    """Reads a run's status and, if it is complete, its numbers."""
    if not is_complete(run):
        record = _read_json(run.folder / RECORD)
        failed = record.get("exit_code", 0) != 0 and _has_same_config(record, run)
        return RunOutcome("failed" if failed else "missing")
    results = read_results(run)
    return RunOutcome(
        status="done",
        scores=final_test_scores(results),
        steps=results.get("steps", 0),
        trainable_params=results["trainable_params"],
        total_params=results["total_params"],
        seconds_per_step=seconds_per_step(read_metrics(run.folder), run.config["batch_size"]),
        memory_bytes=results.get("peak_device_memory_bytes") or results.get("peak_memory_bytes"),
        saved_bytes=saved_bytes(results, run.folder),
        remarks=tuple(remarks(results)),
    )


def seconds_per_step(rows: Sequence[dict], batch_size: int) -> float | None:
    """Returns the median over the logged steps except the first, which compiles; None without any."""
    speeds = [row["examples_per_second"] for row in rows if "examples_per_second" in row]
    return statistics.median(batch_size / speed for speed in speeds[1:]) if speeds[1:] else None


def saved_bytes(results: dict, folder: Path) -> int:
    """Returns the size of the adapter file, or of the trainable parameters as float32 if there is none."""
    file = folder / "model" / "adapter.safetensors"
    return file.stat().st_size if file.is_file() else 4 * results["trainable_params"]


def read_results(run: ComparisonRun) -> dict:
    """Reads the run's results.json or eval.json; empty if that is not readable."""
    return _read_json(run.folder / ("results.json" if run.mode == "train" else "eval.json"))


def is_readable(results: dict) -> bool:
    """Returns whether the results of a run have the scores and sizes of the tables, as numbers."""
    sizes = [results.get(name) for name in SIZES]
    sizes += [results[name] for name in OPTIONAL_SIZES if results.get(name) is not None]
    return final_test_scores(results) is not None and all(map(arguments.is_integer, sizes))


def final_test_scores(results: dict) -> Scores | None:
    """Returns the test scores by direction: of the final state, or of an evaluation.

    Returns None unless all metrics of both directions are numbers.
    """
    final = results.get("final", results)
    scores = final.get("test") if isinstance(final, dict) else None
    directions = [scores.get(name) if isinstance(scores, dict) else None for name in ("t2i", "i2t")]
    complete = all(
        isinstance(found, dict) and all(arguments.is_finite_number(found.get(key)) for key in METRIC_KEYS)
        for found in directions
    )
    return scores if complete else None


def _read_json(path: Path) -> dict:
    """Reads a JSON object; empty if there is no readable one."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def read_metrics(folder: Path) -> list[dict]:
    """Reads the rows of metrics.jsonl, without the lines that are not readable."""
    path = folder / "metrics.jsonl"
    return writer.parse_rows(path.read_bytes())[0] if path.exists() else []
