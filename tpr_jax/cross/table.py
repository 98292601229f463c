"""Scores of models on data sets as tables: a row a model, by what it was trained on, a column a data set.

Pure: cells come in as plain dicts, text goes out. A cell has `name`, `trained_on` (a list of data sets, empty
where that is not known), `tested_on` and `test`: {"t2i", "i2t"}, each with R1, R5, R10, mAP, mINP, percent.
"""

import csv
import io
from collections.abc import Sequence

from tpr_jax.compare.table import DIRECTIONS, MISSING, dataset_name
from tpr_jax.metrics.retrieval import METRIC_KEYS

RENDERED = "mini_pedes"
NOTE = (
    "Test splits, percent: R@1 / R@5 / R@10 / mAP / mINP; in bold on the data set that the model was trained "
    "on. No name under `trained on`: it is not known, or CLIP is as it came."
)


def markdown(cells: Sequence[dict]) -> str:
    """A table for each direction; MiniPEDES, which is rendered, has tables of its own."""
    blocks = []
    for rendered in (False, True):
        part = [cell for cell in cells if (cell["tested_on"] == RENDERED) == rendered]
        for direction, title in DIRECTIONS.items() if part else ():
            where = f"{dataset_name(RENDERED)}: " if rendered else ""
            blocks += [f"### {where}{title}", _table(part, direction)]
    return "\n\n".join([*blocks, NOTE]) + "\n"


def _table(cells: Sequence[dict], direction: str) -> str:
    columns = list(dict.fromkeys(cell["tested_on"] for cell in cells))
    models = {cell["name"]: cell["trained_on"] for cell in cells}
    found = {(cell["name"], cell["tested_on"]): cell["test"][direction] for cell in cells}
    lines = [["trained on", "model", *map(dataset_name, columns)], ["---"] * (2 + len(columns))]
    for name, trained_on in models.items():
        words = [scores_text(found.get((name, column)), column in trained_on) for column in columns]
        lines.append([trained_text(trained_on), _cell(name), *words])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [[c.ljust(w) for c, w in zip(line, widths, strict=True)] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def scores_text(scores: dict | None, own: bool) -> str:
    """`60.00 / 82.10 / 87.90 / 47.37 / 30.12`, in bold where it is the model's own data set."""
    if scores is None:
        return MISSING
    words = " / ".join(f"{scores[key]:.2f}" for key in METRIC_KEYS)
    return f"**{words}**" if own else words


def trained_text(trained_on: Sequence[str]) -> str:
    return " + ".join(map(dataset_name, trained_on)) or MISSING


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def comma_separated(cells: Sequence[dict]) -> str:
    """CSV with all digits, a line for each model, data set and direction."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["model", "trained_on", "tested_on", "direction", *METRIC_KEYS])
    for cell in cells:
        for direction in DIRECTIONS:
            scores = [cell["test"][direction][key] for key in METRIC_KEYS]
            writer.writerow(
                [cell["name"], "+".join(cell["trained_on"]), cell["tested_on"], direction, *scores]
            )
    return file.getvalue()
