"""How what a user waits for grows with what it depends on, beside how it has to grow.

    python -m tpr_jax.bench.growth [--only SERIES,...] [--turns N] [--workdir DIR] [--write] [--tables_only]

A series is the same work at several sizes, each in a process of its own, which take turns. Its exponent is
the slope of seconds over size in logarithms; the expected one is the slope of the operations that the work
needs (`perf/flops.py`). DIR/growth.json, by default in runs/bench, keeps what has been measured; the same
command measures what is missing. --write puts the table and the plot into docs/speed.md. Weights and images
are random, and train steps have clip-mini's size.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tpr_jax.bench import __main__ as bench
from tpr_jax.bench import worker
from tpr_jax.bench.growth_table import table
from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.utils.files import write_json, write_text
from tpr_jax.utils.markdown import put

PLOT, MARKER = Path("docs/growth.svg"), "growth"
WORDS = "Seconds over size for each series, on logarithmic axes, beside the slope expected"


def steps(config: str, key: str, sizes: Sequence[int], batch: int = 32) -> list[dict]:
    """Train steps of clip-mini that differ in one key."""
    same = {"kind": "train_step", "config": config, "backbone": "clip_mini", "dtype": "float32"}
    return [{**same, "batch": batch, key: size} for size in sizes]


def subjects(series: str) -> list[dict]:
    """What is timed for a series, smallest first."""
    if series == "batch":
        return steps("dm_adapter", "batch", (8, 16, 32, 64, 128))
    if series == "ranking":  # four pictures of everybody: of fewer people each would have more to be ranked
        sizes = (4096, 8192, 16384, 32768, 65536)
        return [{"kind": series, "queries": 2048, "gallery": n, "identities": n // 4} for n in sizes]
    if series == "search":
        return [{"kind": series, "vectors": n} for n in (65536, 131072, 262144, 524288)]
    if series == "experts":
        return steps("dm_adapter", "method.num_experts", (2, 4, 8, 16, 32))
    if series == "prefix":
        return steps("up_person", "method.prefix", (8, 16, 32, 64))
    return steps("dm_adapter", "devices", (1, 2, 4, 8), batch=64)


SERIES = ("batch", "ranking", "search", "experts", "prefix", "devices")


def measure(series: list[str], turns: int, path: Path, say: Callable[[str], object]) -> dict:
    """What `path` holds, with the series that it lacks measured and added to it.

    Lacking is also one of other sizes, or of which something could not be timed.
    """
    report = bench.read(path)
    for name in series:
        rows = report["parts"].get(name, [])
        if not is_whole(rows, subjects(name)):
            say(name)
            report["parts"][name] = worker.measure(subjects(name), turns, say)
            write_json(path, report)
    return report


def is_whole(rows: list[dict], wanted: list[dict]) -> bool:
    """Whether the rows are of the subjects wanted, all timed."""
    if len(rows) != len(wanted) or any("error" in row for row in rows):
        return False
    return all(subject.items() <= row.items() for subject, row in zip(wanted, rows, strict=True))


def run(argv: list[str]) -> None:
    """The command."""
    args = bench.command_line("tpr_jax.bench.growth", __doc__, SERIES).parse_args(argv[1:])
    chosen, path = bench.chosen(args, SERIES), args.workdir / "growth.json"
    report = bench.read(path) if args.tables_only else measure(chosen, args.turns, path, bench.say)
    text = table(report)
    print(text)
    if args.write:
        from tpr_jax.bench.growth_svg import picture

        write_text(PLOT, picture(report))
        text = f"{text}\n\n![{WORDS}]({PLOT.name})"
        write_text(bench.PAGE, put(bench.PAGE.read_text(), MARKER, text))
    print(f"written to {path}")


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
