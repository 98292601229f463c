"""Measures how run time scales with batch size, gallery size, experts, prefix length and devices.

    python -m tpr_jax.bench.growth [--only SERIES,...] [--turns N] [--workdir DIR] [--write] [--tables_only]

A series is the same work at several sizes, each timed in a process of its own; the processes take turns. Its
exponent is the slope of log(seconds) over log(size); the expected exponent is the slope of the operations
that the work needs (`perf/flops.py`). DIR/growth.json (default: runs/bench) keeps every measurement; rerun
the same command to measure what is missing. --write puts the table and the plot into docs/speed.md. Weights
and images are random, and train steps use clip-mini.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tpr_jax.bench import __main__ as bench
from tpr_jax.bench import worker
from tpr_jax.bench.growth_table import render_table
from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.utils.files import write_json, write_text
from tpr_jax.utils.markdown import replace_section

PLOT, MARKER = Path("docs/growth.svg"), "growth"
ALT_TEXT = "Seconds over size for each series, on logarithmic axes, beside the expected slope"
SERIES = ("batch", "ranking", "search", "experts", "prefix", "devices")


def train_steps(config: str, key: str, sizes: Sequence[int], batch: int = 32) -> list[dict]:
    """Returns train steps of clip-mini that differ in one key."""
    common = {"kind": "train_step", "config": config, "backbone": "clip_mini", "dtype": "float32"}
    return [{**common, "batch": batch, key: size} for size in sizes]


def subjects(series: str) -> list[dict]:
    """Returns the subjects of a series, smallest first."""
    match series:
        case "batch":
            return train_steps("dm_adapter", "batch", (8, 16, 32, 64, 128))
        case "ranking":
            # Always four images per identity: the number of matches to rank then stays the same.
            sizes = (4096, 8192, 16384, 32768, 65536)
            return [{"kind": series, "queries": 2048, "gallery": n, "identities": n // 4} for n in sizes]
        case "search":
            return [{"kind": series, "vectors": n} for n in (65536, 131072, 262144, 524288)]
        case "experts":
            return train_steps("dm_adapter", "method.num_experts", (2, 4, 8, 16, 32))
        case "prefix":
            return train_steps("up_person", "method.prefix", (8, 16, 32, 64))
    return train_steps("dm_adapter", "devices", (1, 2, 4, 8), batch=64)


def measure(series: list[str], turns: int, path: Path, say: Callable[[str], object]) -> dict:
    """Returns the report at `path` after measuring the series that it lacks.

    A series with other sizes, or with an error in one of its rows, counts as missing.
    """
    report = bench.read_report(path)
    for name in series:
        rows = report["parts"].get(name, [])
        if not is_complete(rows, subjects(name)):
            say(name)
            report["parts"][name] = worker.measure(subjects(name), turns, say)
            write_json(path, report)
    return report


def is_complete(rows: list[dict], expected: list[dict]) -> bool:
    """Returns whether the rows cover the expected subjects without an error."""
    if len(rows) != len(expected) or any("error" in row for row in rows):
        return False
    return all(subject.items() <= row.items() for subject, row in zip(expected, rows, strict=True))


def run(argv: list[str]) -> None:
    """Runs the command."""
    parser = bench.make_parser(
        "tpr_jax.bench.growth",
        "Measures how run time grows with batch size, gallery size, experts, prefix length and devices.",
        ("python -m tpr_jax.bench.growth --only batch,ranking",),
        SERIES,
    )
    args = parser.parse_args(argv[1:])
    series, path = bench.selected_sections(args, SERIES), args.workdir / "growth.json"
    report = bench.read_report(path) if args.tables_only else measure(series, args.turns, path, bench.say)
    text = render_table(report)
    print(text)
    if args.write:
        from tpr_jax.bench.growth_svg import render_svg

        write_text(PLOT, render_svg(report))
        text = f"{text}\n\n![{ALT_TEXT}]({PLOT.name})"
        write_text(bench.PAGE, replace_section(bench.PAGE.read_text(), MARKER, text))
    print(f"written to {path}")


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
