"""The outcomes of many runs as a table: one row a config, mean and spread over its seeds.

Pure: outcomes come in as plain dicts (see `compare_outcome.outcome`), text goes out.
"""

import csv
import io
import statistics
import textwrap
from collections.abc import Sequence

from tpr_jax.metrics.retrieval import METRIC_KEYS
from tpr_jax.report.facts import DATASET_NAMES

DIRECTIONS = {"t2i": "text to image", "i2t": "image to text"}
NOTE = (
    "Test split, percent, after the last step: mean ± standard deviation over the seeds (the "
    "sample's, n - 1). Time of a step: mean over the seeds of each run's median, without the first, which "
    "compiles. Memory: the highest of any seed; the device's where it keeps an account, else the process's. "
    "File: the trained part alone."
)
MISSING = "–"


def summarize(name: str, dataset: str, outcomes: Sequence[dict], direction: str = "t2i") -> dict:
    """One row: what a config's runs, one outcome a seed, amount to, their queries being texts or images.

    Of an outcome are read `status` ("done", "failed" or "missing") and, of those done, `scores` (by direction
    and metric, percent), `steps`, `trainable_params`, `total_params`, `seconds_per_step`, `memory_bytes`,
    `saved_bytes`; the last three may be None. Returns `name`, `dataset`, `direction`, `seeds`, `done`,
    `failed`, for each metric (mean, standard deviation) or None, and the others; what is not known is None.
    The deviation of one run alone is None.
    """
    done = [outcome for outcome in outcomes if outcome["status"] == "done"]
    row = {
        "name": name,
        "dataset": dataset,
        "direction": direction,
        "seeds": len(outcomes),
        "done": len(done),
        "failed": sum(outcome["status"] == "failed" for outcome in outcomes),
    }
    for key in METRIC_KEYS:
        row[key] = _mean_and_deviation([outcome["scores"][direction][key] for outcome in done])

    def known(key):
        return [outcome[key] for outcome in done if outcome[key] is not None]

    row["steps"] = (min(known("steps")), max(known("steps"))) if done else None
    for key in ("trainable_params", "total_params", "memory_bytes", "saved_bytes"):
        row[key] = max(known(key), default=None)
    times = known("seconds_per_step")
    row["seconds_per_step"] = statistics.fmean(times) if times else None
    return row


def markdown(rows: Sequence[dict]) -> str:
    """A heading and a padded table for each data set and direction; below, what the numbers are."""
    blocks = []
    for title, part in tables(rows):
        head, *body = _cells(part)
        rule = ["---" if i == 0 else "---:" for i in range(len(head))]
        lines = [f"| {' | '.join(line)} |" for line in _padded([head, rule, *body])]
        blocks += [f"### {title}", "\n".join(lines)]
    return "\n\n".join([*blocks, NOTE]) + "\n"


def text(rows: Sequence[dict]) -> str:
    """The same for a terminal: for each table the scores, and below them what they cost."""
    blocks = []
    for title, part in tables(rows):
        cells = _cells(part)
        split = 3 + len(METRIC_KEYS)
        scores = [line[:split] for line in cells]
        costs = [line[:1] + line[split:] for line in cells]
        blocks.append("\n".join([title, *map("  ".join, _padded(scores))]))
        blocks.append("\n".join(map("  ".join, _padded(costs))))
    return "\n\n".join([*blocks, textwrap.fill(NOTE, 100)]) + "\n"


def comma_separated(rows: Sequence[dict]) -> str:
    """CSV with all digits; an empty field where nothing is known."""
    columns = ["config", "dataset", "direction", "seeds", "done", "failed", "steps_min", "steps_max"]
    columns += [f"{key}_{what}" for key in METRIC_KEYS for what in ("mean", "sd")]
    columns += ["trainable_params", "total_params", "seconds_per_step", "memory_bytes", "saved_bytes"]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        values = [row[key] for key in ("name", "dataset", "direction", "seeds", "done", "failed")]
        for key in ("steps", *METRIC_KEYS):
            values += row[key] or (None, None)
        writer.writerow([*values, *(row[key] for key in columns[-5:])])  # None is written as an empty field
    return file.getvalue()


def _mean_and_deviation(values: list[float]) -> tuple[float, float | None] | None:
    if not values:
        return None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def tables(rows: Sequence[dict]) -> list[tuple[str, list[dict]]]:
    """(title, rows): numbers of one data set, or direction, mean nothing beside those of another."""
    kinds = dict.fromkeys((row["dataset"], row["direction"]) for row in rows)
    parts = [[row for row in rows if (row["dataset"], row["direction"]) == kind] for kind in kinds]
    titles = [f"{dataset_name(dataset)}: {DIRECTIONS[direction]}" for dataset, direction in kinds]
    return list(zip(titles, parts, strict=True))


def dataset_name(dataset: str) -> str:
    return DATASET_NAMES.get(dataset, dataset)


def _cells(rows: Sequence[dict]) -> list[list[str]]:
    """The head and a line of words for each row."""
    scores = [key.replace("R", "R@") for key in METRIC_KEYS]
    head = ["config", "seeds", "steps", *scores, "trained", "share", "s a step", "memory", "file"]
    return [head, *(_line(row) for row in rows)]


def _line(row: dict) -> list[str]:
    trained, total, time = row["trainable_params"], row["total_params"], row["seconds_per_step"]
    return [
        row["name"],
        seeds_text(row),
        MISSING if row["steps"] is None else "–".join(f"{n}" for n in dict.fromkeys(row["steps"])),
        *(_score(row[key]) for key in METRIC_KEYS),
        MISSING if trained is None else f"{trained:,}",
        f"{100 * trained / total:.2f} %" if total else MISSING,
        MISSING if time is None else f"{time:.3g}",
        bytes_text(row["memory_bytes"]),
        bytes_text(row["saved_bytes"]),
    ]


def seeds_text(row: dict) -> str:
    """`3` where all seeds are there, else `1 of 3`, `1 of 3, 2 failed`."""
    seen = f"{row['seeds']}" if row["done"] == row["seeds"] else f"{row['done']} of {row['seeds']}"
    return f"{seen}, {row['failed']} failed" if row["failed"] else seen


def bytes_text(size: int | None) -> str:
    """`1.9 MB`: three digits or so, in powers of 1000."""
    if size is None:
        return MISSING
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= power:
            return f"{size / power:.3g} {unit}" if size < 999.5 * power else f"{size / power:.0f} {unit}"
    return f"{size} B"


def _score(value: tuple[float, float | None] | None) -> str:
    if value is None:
        return MISSING
    mean, deviation = value
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"


def _padded(lines: list[list[str]]) -> list[list[str]]:
    """All cells of a column equally wide: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        [
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
