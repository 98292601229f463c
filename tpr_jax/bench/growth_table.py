"""Fits how the costs measured by `bench.growth` scale, and renders them as a Markdown table."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tpr_jax.bench.table import describe_machine, peak_memory_gb
from tpr_jax.bench.worker import median_seconds
from tpr_jax.utils import markdown

LARGEST = 3  # sizes that exponents are fitted to: constant overhead dominates the smaller ones
TOLERANCE = 0.15  # how far a measured exponent may exceed the expected one


class Series(NamedTuple):
    """The same work at several sizes: the key of a row that holds the size, what is timed, and the axis."""

    size_key: str
    work: str
    axis: str


SERIES = {
    "batch": Series("batch", "DM-Adapter train step", "batch"),
    "ranking": Series("gallery", "ranking 2,048 texts", "gallery"),
    "search": Series("vectors", "exact search", "gallery"),
    "experts": Series("method.num_experts", "DM-Adapter train step, batch 32, top 2", "experts"),
    "prefix": Series("method.prefix", "UP-Person train step, batch 32", "prefix length"),
    "devices": Series("devices", "DM-Adapter train step, global batch 64", "forced devices"),
}
HEADER = [
    "",
    "size",
    "sizes",
    "seconds",
    "memory, GB",
    "expected exponent",
    "measured",
    "range over turns",
    "",
]


class GrowthFit(NamedTuple):
    """The scaling exponents of a series: expected, of the medians, and their range over single turns."""

    expected: float
    measured: float
    lowest: float
    highest: float

    @property
    def is_worse(self) -> bool:
        """Whether the costs grow faster than the work requires."""
        return self.measured > self.expected + TOLERANCE


def fit_exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Returns the least-squares slope of log(cost) over log(size): p for costs of c * size ** p."""
    x, y = (np.log(values) - np.log(values).mean() for values in (sizes, costs))
    return float(x @ y / (x @ x))


def timed_rows(rows: Sequence[dict]) -> list[dict]:
    """Returns the rows of a series that were timed without an error."""
    return [row for row in rows if "error" not in row]


def fit_growth(name: str, rows: Sequence[dict]) -> GrowthFit | None:
    """Fits the exponents of a series to its largest sizes; None for fewer than two."""
    largest = timed_rows(rows)[-LARGEST:]
    if len(largest) < 2:
        return None
    sizes = [row[SERIES[name].size_key] for row in largest]
    # The operations of rankings and searches are not counted: they pass over the gallery once.
    minimum = [row["flops"] or size for row, size in zip(largest, sizes, strict=True)]
    turns = [
        fit_exponent(sizes, seconds) for seconds in zip(*(row["seconds"] for row in largest), strict=True)
    ]
    measured = fit_exponent(sizes, [median_seconds(row) for row in largest])
    return GrowthFit(fit_exponent(sizes, minimum), measured, min(turns), max(turns))


def render_table(report: dict) -> str:
    """Renders one row for each series, under a line that names the machine."""
    rows = [row_cells(name, report["parts"][name]) for name in SERIES if report["parts"].get(name)]
    return f"Measured on: {describe_machine(report['machine'])}.\n\n{markdown.table(HEADER, rows)}"


def row_cells(name: str, rows: Sequence[dict]) -> list[str]:
    """Returns the table cells of a series."""
    series, done, fit = SERIES[name], timed_rows(rows), fit_growth(name, rows)
    cells = [series.work, series.axis, ", ".join(format_size(row[series.size_key]) for row in done)]
    cells.append(", ".join(f"{median_seconds(row):.3g}" for row in done))
    cells.append(", ".join(f"{peak_memory_gb(row):.2f}" for row in done))
    # Adding 0.0 turns -0.0 into 0.0.
    expected, measured, lowest, highest = (f"{round(p, 2) + 0.0:.2f}" for p in fit) if fit else [""] * 4
    cells += [expected, measured, f"{lowest} to {highest}" if fit else ""]
    errors = [row["error"] for row in rows if "error" in row]
    return [*cells, "**worse**" if fit and fit.is_worse else "".join(errors[:1])]


def format_size(size: int) -> str:
    """Formats a size; multiples of 1,024 are written as `64k`."""
    return str(size) if size < 1024 or size % 1024 else f"{size // 1024}k"
