"""Renders the scores of models on data sets: one row per model, one column per data set.

Pure functions: scores in, text out.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from tpr_jax.compare.table import DIRECTIONS, MISSING
from tpr_jax.data import datasets
from tpr_jax.metrics.retrieval import METRIC_KEYS
from tpr_jax.utils import markdown

RENDERED = "mini_pedes"
NOTE = (
    "Test splits, percent: R@1 / R@5 / R@10 / mAP / mINP; in bold on the data set that the model was trained "
    "on. No name under `trained on`: unknown, or CLIP without training."
)


@dataclass(frozen=True)
class Cell:
    """The scores of one model on one data set.

    Attributes:
      name: the model's name.
      trained_on: the data sets that it was trained on; empty if unknown.
      tested_on: the data set.
      test: direction ("t2i", "i2t") -> metric -> percent.
    """

    name: str
    trained_on: tuple[str, ...]
    tested_on: str
    test: dict[str, dict[str, float]]


def render_markdown(cells: Sequence[Cell], notes: Sequence[str] = ()) -> str:
    """Renders a table for each direction; MiniPEDES, which is synthetic, has its own tables.

    Args:
      cells: the scores.
      notes: sentences about the test splits, which stand below the tables.
    """
    blocks = []
    for rendered in (False, True):
        part = [cell for cell in cells if (cell.tested_on == RENDERED) == rendered]
        prefix = f"{datasets.label(RENDERED)}: " if rendered else ""
        if part:
            for direction, title in DIRECTIONS.items():
                blocks += [f"### {prefix}{title}", _table(part, direction)]
    return "\n\n".join([*blocks, NOTE, *notes]) + "\n"


def _table(cells: Sequence[Cell], direction: str) -> str:
    columns = list(dict.fromkeys(cell.tested_on for cell in cells))
    models = {cell.name: cell.trained_on for cell in cells}
    scores = {(cell.name, cell.tested_on): cell.test[direction] for cell in cells}
    rows = []
    for name, trained_on in models.items():
        texts = [format_scores(scores.get((name, column)), column in trained_on) for column in columns]
        rows.append([format_datasets(trained_on), markdown.escape(name), *texts])
    header = ["trained on", "model", *map(datasets.label, columns)]
    return markdown.table(header, rows, align="l" * len(header), pad=True)


def format_scores(scores: dict[str, float] | None, bold: bool) -> str:
    """Formats scores as `60.00 / 82.10 / 87.90 / 47.37 / 30.12`."""
    if scores is None:
        return MISSING
    text = " / ".join(f"{scores[key]:.2f}" for key in METRIC_KEYS)
    return f"**{text}**" if bold else text


def format_datasets(names: Sequence[str]) -> str:
    """Formats data sets as `CUHK-PEDES + RSTPReid`."""
    return " + ".join(map(datasets.label, names)) or MISSING


def render_csv(cells: Sequence[Cell]) -> str:
    """Renders CSV with full precision, one line for each model, data set and direction."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["model", "trained_on", "tested_on", "direction", *METRIC_KEYS])
    for cell in cells:
        for direction in DIRECTIONS:
            scores = [cell.test[direction][key] for key in METRIC_KEYS]
            writer.writerow([cell.name, "+".join(cell.trained_on), cell.tested_on, direction, *scores])
    return file.getvalue()
