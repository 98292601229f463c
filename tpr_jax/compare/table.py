"""Summarizes the outcomes of many runs: one row per config, with mean and spread over its seeds.

Pure functions: outcomes in, text out.
"""

import csv
import io
import statistics
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tpr_jax.compare.outcome import RunOutcome
from tpr_jax.compare.spread import Spread, spread
from tpr_jax.data import datasets
from tpr_jax.metrics.retrieval import METRIC_KEYS
from tpr_jax.utils import markdown

DIRECTIONS = {"t2i": "text to image", "i2t": "image to text"}
NOTE = (
    "Test split, percent, after the last step: mean ± sample standard deviation (n - 1) over the seeds. "
    "Seconds per step: mean over the seeds of each run's median, without the first step, which compiles. "
    "Memory: the peak of any seed, of the device if it reports that, else of the process. File: the trained "
    "parameters alone."
)
MISSING = "–"


@dataclass(frozen=True)
class Summary:
    """One row of the tables: the runs of one config, one per seed, in one direction.

    Attributes:
      name: the config's name.
      dataset: the data set's name.
      direction: "t2i" (text queries) or "i2t" (image queries).
      seeds: the number of runs.
      done: the number of complete runs.
      failed: the number of failed runs.
      scores: each metric in percent, None without a complete run.
      steps: the fewest and the most steps of a run.
      trainable_params: trainable parameters.
      total_params: all parameters.
      seconds_per_step: the mean over the runs.
      memory_bytes: the highest peak of any run.
      saved_bytes: the size of the trained parameters' file.
      remarks: what the scores depend on, in sentences.
    """

    name: str
    dataset: str
    direction: str
    seeds: int
    done: int
    failed: int
    scores: dict[str, Spread | None]
    steps: tuple[int, int] | None
    trainable_params: int | None
    total_params: int | None
    seconds_per_step: float | None
    memory_bytes: int | None
    saved_bytes: int | None
    remarks: tuple[str, ...] = ()


COSTS = ("trainable_params", "total_params", "seconds_per_step", "memory_bytes", "saved_bytes")


def summarize(name: str, dataset: str, outcomes: Sequence[RunOutcome], direction: str = "t2i") -> Summary:
    """Summarizes the runs of one config, one outcome per seed."""
    done = [outcome for outcome in outcomes if outcome.status == "done"]

    def known(key: str) -> list:
        return [value for outcome in done if (value := getattr(outcome, key)) is not None]

    scores = [outcome.scores[direction] for outcome in done if outcome.scores is not None]
    return Summary(
        name=name,
        dataset=dataset,
        direction=direction,
        seeds=len(outcomes),
        done=len(done),
        failed=sum(outcome.status == "failed" for outcome in outcomes),
        scores={
            key: spread([percents[key] for percents in scores]) if scores else None for key in METRIC_KEYS
        },
        steps=(min(known("steps")), max(known("steps"))) if done else None,
        trainable_params=max(known("trainable_params"), default=None),
        total_params=max(known("total_params"), default=None),
        seconds_per_step=statistics.fmean(known("seconds_per_step")) if known("seconds_per_step") else None,
        memory_bytes=max(known("memory_bytes"), default=None),
        saved_bytes=max(known("saved_bytes"), default=None),
        remarks=_shared_remarks(done),
    )


def _shared_remarks(done: Sequence[RunOutcome]) -> tuple[str, ...]:
    """Returns each remark once, with the number of runs that it holds for if these are not all."""
    runs = Counter(remark for outcome in done for remark in outcome.remarks)
    return tuple(
        remark if count == len(done) else f"{count} of {len(done)} seeds: {remark}"
        for remark, count in runs.items()
    )


def render_markdown(summaries: Sequence[Summary]) -> str:
    """Renders a heading and a padded table for each data set and direction, and a note below them."""
    blocks = []
    for title, rows in split_tables(summaries):
        blocks += [f"### {title}", markdown.table(HEADER, map(_cells, rows), pad=True)]
    return "\n\n".join([*blocks, NOTE, *remark_lines(summaries)]) + "\n"


def render_text(summaries: Sequence[Summary]) -> str:
    """Renders the same tables for a terminal, each as two: the scores, and below them the costs."""
    blocks = []
    for title, rows in split_tables(summaries):
        lines = [HEADER, *map(_cells, rows)]
        split = 3 + len(METRIC_KEYS)
        scores = markdown.pad_columns([line[:split] for line in lines])
        costs = markdown.pad_columns([line[:1] + line[split:] for line in lines])
        blocks.append("\n".join([title, *map("  ".join, scores)]))
        blocks.append("\n".join(map("  ".join, costs)))
    notes = (textwrap.fill(text, 100) for text in (NOTE, *remark_lines(summaries)))
    return "\n\n".join([*blocks, *notes]) + "\n"


def remark_lines(summaries: Sequence[Summary]) -> list[str]:
    """Returns each remark once, after the configs that it holds for, unless it holds for all that ran."""
    configs = {}
    for row in summaries:
        for remark in row.remarks:
            configs.setdefault(remark, {})[row.name] = None
    everyone = {row.name for row in summaries if row.done}
    return [
        remark if names.keys() == everyone else f"{', '.join(names)}: {remark}"
        for remark, names in configs.items()
    ]


def render_csv(summaries: Sequence[Summary]) -> str:
    """Renders CSV with full precision; unknown values are empty fields."""
    columns = ["config", "dataset", "direction", "seeds", "done", "failed", "steps_min", "steps_max"]
    columns += [f"{key}_{statistic}" for key in METRIC_KEYS for statistic in ("mean", "sd")]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*columns, *COSTS, "remarks"])
    for row in summaries:
        values: list[object] = [row.name, row.dataset, row.direction, row.seeds, row.done, row.failed]
        values += row.steps or (None, None)
        for score in row.scores.values():
            values += (score.mean, score.deviation) if score else (None, None)
        # None becomes an empty field.
        writer.writerow([*values, *(getattr(row, key) for key in COSTS), " ".join(row.remarks)])
    return file.getvalue()


def split_tables(summaries: Sequence[Summary]) -> list[tuple[str, list[Summary]]]:
    """Returns (title, rows) of a table for each data set and direction: they are not comparable."""
    tables = {}
    for row in summaries:
        title = f"{datasets.label(row.dataset)}: {DIRECTIONS[row.direction]}"
        tables.setdefault(title, []).append(row)
    return list(tables.items())


HEADER = ["config", "seeds", "steps", *(key.replace("R", "R@") for key in METRIC_KEYS)]
HEADER += ["trained", "share", "s/step", "memory", "file"]


def _cells(row: Summary) -> list[str]:
    trained, total, seconds = row.trainable_params, row.total_params, row.seconds_per_step
    return [
        row.name,
        format_seeds(row),
        MISSING if row.steps is None else "–".join(f"{n}" for n in dict.fromkeys(row.steps)),
        *(MISSING if spread is None else str(spread) for spread in row.scores.values()),
        MISSING if trained is None else f"{trained:,}",
        f"{100 * trained / total:.2f} %" if trained is not None and total else MISSING,
        MISSING if seconds is None else f"{seconds:.3g}",
        format_bytes(row.memory_bytes),
        format_bytes(row.saved_bytes),
    ]


def format_seeds(row: Summary) -> str:
    """Formats the number of seeds: `3` if all are done, else `1 of 3` or `1 of 3, 2 failed`."""
    done = f"{row.seeds}" if row.done == row.seeds else f"{row.done} of {row.seeds}"
    return f"{done}, {row.failed} failed" if row.failed else done


def format_bytes(size: int | None) -> str:
    """Formats a size in powers of 1,000 with about three digits, such as `1.9 MB`."""
    if size is None:
        return MISSING
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= power:
            return f"{size / power:.3g} {unit}" if size < 999.5 * power else f"{size / power:.0f} {unit}"
    return f"{size} B"
