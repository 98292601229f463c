"""What `bench_growth` measured, as exponents and as Markdown."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tpr_jax.bench.table import markdown, memory, named
from tpr_jax.bench.worker import median_seconds

UPPER = 3  # the largest sizes, by which exponents are taken: of small ones what is always there takes most
TOLERANCE = 0.15  # of an exponent, before it is called worse than expected


class Kind(NamedTuple):
    """A series: the key of its size, what is timed, and what its size is of."""

    key: str
    work: str
    size: str


KINDS = {
    "batch": Kind("batch", "DM-Adapter's step", "batch"),
    "ranking": Kind("gallery", "ranking 2,048 texts", "gallery"),
    "search": Kind("vectors", "exact search", "gallery"),
    "experts": Kind("method.num_experts", "DM-Adapter's step, batch 32, 2 chosen", "experts"),
    "prefix": Kind("method.prefix", "UP-Person's step, batch 32", "prefix length"),
    "devices": Kind("devices", "DM-Adapter's step, batch 64 in all", "devices, forced"),
}


class Growth(NamedTuple):
    """The exponents of a series: expected, found (of medians), and the least and the most of any turn."""

    expected: float
    found: float
    least: float
    most: float

    @property
    def worse(self) -> bool:
        """Whether it grows faster than it has to."""
        return self.found > self.expected + TOLERANCE


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The least-squares slope of log(cost) over log(size): p where the cost is c * size ** p."""
    x, y = (np.log(values) - np.log(values).mean() for values in (sizes, costs))
    return float(x @ y / (x @ x))


def timed(rows: Sequence[dict]) -> list[dict]:
    """Those of a series that could be made."""
    return [row for row in rows if "error" not in row]


def growth(name: str, rows: Sequence[dict]) -> Growth | None:
    """A series' exponents over its largest sizes; None of fewer than two."""
    upper = timed(rows)[-UPPER:]
    if len(upper) < 2:
        return None
    sizes = [row[KINDS[name].key] for row in upper]
    # Rankings and searches, whose operations are not counted, pass once over the gallery.
    least = [row["flops"] or size for row, size in zip(upper, sizes, strict=True)]
    turns = [exponent(sizes, seconds) for seconds in zip(*(row["seconds"] for row in upper), strict=True)]
    found = exponent(sizes, [median_seconds(row) for row in upper])
    return Growth(exponent(sizes, least), found, min(turns), max(turns))


def table(report: dict) -> str:
    """A line a series, under one that names the machine."""
    heads = ["", "grows with", "at", "seconds", "memory, GB", "exponent expected", "found", "in any turn", ""]
    lines = [line(name, report["parts"][name]) for name in KINDS if report["parts"].get(name)]
    return f"Measured on: {named(report['machine'])}.\n\n{markdown(heads, lines)}"


def line(name: str, rows: Sequence[dict]) -> list[str]:
    """The cells of a series."""
    kind, done, grown = KINDS[name], timed(rows), growth(name, rows)
    cells = [kind.work, kind.size, ", ".join(short(row[kind.key]) for row in done)]
    cells.append(", ".join(f"{median_seconds(row):.3g}" for row in done))
    cells.append(", ".join(f"{memory(row):.2f}" for row in done))
    # + 0.0: what is rounded to zero has no sign
    expected, found, least, most = (f"{round(p, 2) + 0.0:.2f}" for p in grown) if grown else [""] * 4
    cells += [expected, found, f"{least} to {most}" if grown else ""]
    errors = [row["error"] for row in rows if "error" in row]
    return [*cells, "**worse**" * bool(grown and grown.worse) or "".join(errors[:1])]


def short(size: int) -> str:
    """Of a gallery thousands of 1,024."""
    return str(size) if size < 1024 or size % 1024 else f"{size // 1024}k"
