"""What came out of the runs of a comparison, read from the files that they left."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from tpr_jax.config import defaults as config_lib
from tpr_jax.train import writer

MARK = "compare.json"  # written beside a run's own files when it has ended: how it ended, with which config


def is_whole(run: dict) -> bool:
    """Whether this run has ended well, with this config, and its results can be read."""
    mark = _read(run["folder"] / MARK)
    return mark.get("exit_code") == 0 and _is_of(mark, run) and scores_of(results_of(run)) is not None


def _is_of(mark: dict, run: dict) -> bool:
    """Whether a mark is of this run's config, but for keys that change nothing of its results."""
    free = {*config_lib.FREE_ON_RESUME} - ({"total_steps"} if run["mode"] == "train" else set())
    computes = [{k: v for k, v in one.get("config", {}).items() if k not in free} for one in (mark, run)]
    return computes[0] == computes[1]


def outcome(run: dict) -> dict:
    """What there is of a run, for `compare_table.summarize`: its status and, if it is whole, its numbers."""
    if not is_whole(run):
        mark = _read(run["folder"] / MARK)
        failed = mark.get("exit_code", 0) != 0 and _is_of(mark, run)
        return {"status": "failed" if failed else "missing"}
    results = results_of(run)
    return {
        "status": "done",
        "scores": scores_of(results),
        "steps": results.get("steps", 0),
        "trainable_params": results["trainable_params"],
        "total_params": results["total_params"],
        "seconds_per_step": seconds_per_step(rows_of(run["folder"]), run["config"]["batch_size"]),
        "memory_bytes": results.get("peak_device_memory_bytes") or results.get("peak_memory_bytes"),
        "saved_bytes": saved_bytes(results, run["folder"]),
    }


def seconds_per_step(rows: Sequence[dict], batch_size: int) -> float | None:
    """The median over the logged steps without the first, whose time is that of compiling; else None."""
    speeds = [row["examples_per_second"] for row in rows if "examples_per_second" in row]
    return statistics.median(batch_size / speed for speed in speeds[1:]) if speeds[1:] else None


def saved_bytes(results: dict, folder: Path) -> int:
    """Size of the trained part as a file; where none was written, of its numbers as float32."""
    file = folder / "model" / "adapter.safetensors"
    return file.stat().st_size if file.is_file() else 4 * results["trainable_params"]


def results_of(run: dict) -> dict:
    """What the run has written at its end; empty where that cannot be read."""
    return _read(run["folder"] / ("results.json" if run["mode"] == "train" else "eval.json"))


def scores_of(results: dict) -> dict[str, dict[str, float]] | None:
    """R@1 and so on of the test split by direction: of the last state, or of what was only scored."""
    found = results.get("final", results).get("test", {})
    return found if found.keys() >= {"t2i", "i2t"} else None


def _read(path: Path) -> dict:
    """A JSON object; empty where there is none that can be read."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def rows_of(folder: Path) -> list[dict]:
    """Returns the rows of metrics.jsonl without the lines that cannot be read."""
    path = folder / "metrics.jsonl"
    return writer.parse_rows(path.read_bytes())[0] if path.exists() else []
