"""Tests every trained model on every benchmark, by `tpr_jax.cross` in a process of its own."""

import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tpr_jax.compare.spread import Spread, spread
from tpr_jax.metrics.retrieval import METRIC_KEYS
from tpr_jax.reproduce import child
from tpr_jax.reproduce.plan import Recipe
from tpr_jax.reproduce.rows import DIRECTION, finished_models
from tpr_jax.utils.plural import counted

PROGRAM = (sys.executable, "-m", "tpr_jax.cross")
FOLDER = "cross"  # in the workdir


@dataclass(frozen=True)
class Transfer:
    """The scores of a method that was trained on one benchmark and tested on another.

    Attributes:
      method: the name of the config.
      trained_on: the benchmark of the training.
      tested_on: the benchmark of the test.
      ours: the spread of each metric over the seeds.
    """

    method: str
    trained_on: str
    tested_on: str
    ours: dict[str, Spread]


def execute(
    recipes: Sequence[Recipe], data: Mapping[str, str], workdir: Path, asked_to_stop: Callable[[], bool]
) -> tuple[int | None, str]:
    """Scores the finished models, of which there is at least one, that are not scored yet.

    Returns:
      The exit code, None if it was asked to stop; and a message.
    """
    finished = [run for _, run in finished_models(recipes)]
    models = [str(run.folder) for run in finished]
    folders = [f"{dataset}={folder}" for dataset, folder in data.items()]
    out = workdir / FOLDER
    command = [*PROGRAM, *models, "--data", *folders, "--out", str(out)]
    code, message = child.execute(command, out, finished[0], asked_to_stop)
    if code:
        return code, f"FAILED (exit code {code}): {message}\n    see {out / 'log.txt'}"
    if code is None:
        return None, message
    return 0, f"{counted(len(models), 'model')} on {counted(len(folders), 'data set')}"


def read(recipes: Sequence[Recipe], workdir: Path) -> list[Transfer]:
    """Reads the scores on other benchmarks than those of the training; empty before they exist."""
    scores = read_scores(workdir / FOLDER / "cross.csv")
    found: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    for recipe, run in finished_models(recipes):
        for (model, tested_on), metrics in scores.items():
            if model == str(run.folder) and tested_on != recipe.dataset:
                found.setdefault((recipe.method, recipe.dataset, tested_on), []).append(metrics)
    return [
        Transfer(*names, {key: spread([metrics[key] for metrics in seeds]) for key in METRIC_KEYS})
        for names, seeds in found.items()
    ]


def read_scores(path: Path) -> dict[tuple[str, str], dict[str, float]]:
    """Reads cross.csv: (model, data set) -> metric -> percent, of text queries; empty if unreadable."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["direction"] == DIRECTION]
            return {
                (row["model"], row["tested_on"]): {key: float(row[key]) for key in METRIC_KEYS}
                for row in rows
            }
    except (OSError, ValueError, KeyError, TypeError):
        return {}
