"""Trains several configs with several seeds each and compares their results.

    python -m tpr_jax.compare CONFIG... --seeds N --workdir DIR [--direction t2i|i2t|both]
                              [--config.KEY=VALUE ...]

CONFIG is configs/NAME.py[:DATASET]; the seeds are 0 to N - 1; --config.KEY=VALUE applies to every run. The
tables show the scores of text queries (t2i, the default), of image queries (i2t), or both. Each run is
`python -m tpr_jax.main` in a process and a folder of its own, DIR/NAME/seed_K, with its output in log.txt.
DIR/compare.md, compare.csv and compare.png are updated after every run. Rerun the same command to resume: it
repeats failed runs, and skips finished ones.
"""

# ruff: noqa: E402 (signals are caught before the imports that take seconds)

import sys
from collections.abc import Sequence

from tpr_jax.cli.exit import early_ends, explain_and_exit, explain_stopped, stopped_at
from tpr_jax.utils import ending, signals

MODULE = "tpr_jax.compare"

if __name__ == "__main__":
    ending.exit_immediately(early_ends(MODULE, sys.argv))

import contextlib
from pathlib import Path
from typing import NamedTuple

from tpr_jax.cli import parser as arguments
from tpr_jax.cli import settings as settings_lib
from tpr_jax.compare import outcome, table
from tpr_jax.compare import runs as compare_runs
from tpr_jax.compare.runs import ComparisonRun
from tpr_jax.errors import UserError
from tpr_jax.utils import locking
from tpr_jax.utils.files import remove_leftovers, write_text, write_whole


class Arguments(NamedTuple):
    """A parsed command line."""

    configs: list[str]
    seeds: int
    workdir: Path
    directions: tuple[str, ...]
    settings: list[str]


def parse(argv: Sequence[str]) -> Arguments:
    """Parses a command line.

    Raises:
      UserError: an argument is missing or wrong.
      SystemExit: after printing the help.
    """
    settings, words = settings_lib.split_settings(argv)
    for setting in settings:
        _check_setting(setting)
    parser = _make_parser()
    if len(argv) == 1:
        parser.print_help()
        raise SystemExit(2)
    args = parser.parse_args(words)
    if not args.configs:
        raise UserError("no config is named: give some, such as configs/dm_adapter.py configs/zero_shot.py")
    if args.seeds < 1:
        raise UserError(f"--seeds {args.seeds}: must be at least 1")
    if not args.workdir:
        raise UserError("--workdir is missing: name a folder for the results, such as --workdir runs/all")
    if args.direction not in (*table.DIRECTIONS, "both"):
        raise UserError(f"--direction {args.direction} is unknown: choose from t2i, i2t, both")
    directions = tuple(table.DIRECTIONS) if args.direction == "both" else (args.direction,)
    return Arguments(args.configs, args.seeds, Path(args.workdir), directions, settings)


def _make_parser() -> arguments.Parser:
    parser = arguments.Parser(
        prog="python -m tpr_jax.compare",
        usage="python -m tpr_jax.compare CONFIG... --workdir DIR [--seeds N] [--direction t2i|i2t|both] "
        "[--config.KEY=VALUE ...]",
        description="Trains several configs with several seeds each, and compares the results in one table.",
        examples=(
            "python -m tpr_jax.compare configs/lora.py configs/prefix.py --seeds 3 --workdir runs/compare",
            "python -m tpr_jax.compare configs/lora.py:cuhk_pedes --workdir runs/cuhk --config.data_dir=DIR",
        ),
        allow_abbrev=False,
    )
    parser.add_argument(
        "configs",
        nargs="*",
        type=arguments.path,
        metavar="CONFIG",
        help="configs/NAME.py or configs/NAME.py:DATASET",
    )
    parser.add_argument(
        "--workdir",
        type=arguments.path,
        metavar="DIR",
        help="the folder for the tables and runs, which is required; rerun the same command to resume",
    )
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="runs of each config, with the seeds 0 to N - 1"
    )
    parser.add_argument(
        "--direction",
        default="t2i",
        metavar="t2i|i2t|both",
        help="scores of text queries (t2i), of image queries (i2t), or both",
    )
    settings_lib.add_settings(parser)
    return parser


def _check_setting(setting: str) -> None:
    if settings_lib.key_of(setting) == "seed":
        raise UserError(f"{setting}: the seeds are 0 to N - 1 of --seeds N: leave it out")


def run(argv: list[str]) -> None:
    """Executes the runs that are not complete yet, and writes and prints the tables.

    Raises:
      UserError: an argument or a config cannot be used (before anything runs), another comparison uses the
        folder, or this one was stopped by SIGTERM at its beginning.
      Stopped: this comparison was stopped; the tables are written.
      SystemExit: with code 1 if runs failed.
    """
    with contextlib.ExitStack() as stack:
        try:
            with signals.raise_stopped("its beginning"):
                args = parse(argv)
                stack.enter_context(locking.hold(args.workdir, "--workdir", "comparing in this folder"))
                runs = compare_runs.plan(args.configs, args.seeds, args.workdir, args.settings)
                remove_leftovers(args.workdir, ["compare.md", "compare.csv", "compare.png"])
        except signals.Stopped as error:
            raise UserError(stopped_at(str(error), MODULE, argv)) from None
        _compare(runs, args.workdir, args.directions, argv)


def _compare(
    runs: Sequence[ComparisonRun], workdir: Path, directions: Sequence[str], argv: Sequence[str]
) -> None:
    """Executes the runs and writes the tables after each; see `run` for the errors."""
    failed = 0
    with signals.catch_signals() as asked_to_stop:
        for number, planned in enumerate(runs, 1):
            print(f"[{number} of {len(runs)}] {planned.name}, seed {planned.seed}: ", end="", flush=True)
            code, message = compare_runs.run_if_incomplete(planned, asked_to_stop, directions[0])
            print(message, flush=True)
            write_tables(workdir, runs, directions)
            if code is None:
                raise signals.Stopped(
                    asked_to_stop.number, stopped_at(f"run {number} of {len(runs)}", MODULE, argv)
                )
            failed += code != 0
    print(f"\n{table.render_text(summaries_of(runs, directions))}", end="")
    print(f"\nwritten to {workdir}: compare.md, compare.csv, compare.png; each run's files in NAME/seed_K/")
    if failed:
        print(f"{failed} of {len(runs)} runs failed; rerun the same command to repeat them", file=sys.stderr)
        raise SystemExit(1)


def summaries_of(runs: Sequence[ComparisonRun], directions: Sequence[str] = ("t2i",)) -> list[table.Summary]:
    """Summarizes the current outcomes: all configs in their order, once for each direction."""
    by_name = {}
    for planned in runs:
        by_name.setdefault(planned.name, []).append(planned)
    outcomes = {name: list(map(outcome.read_outcome, seeds)) for name, seeds in by_name.items()}
    return [
        table.summarize(name, seeds[0].config["dataset"], outcomes[name], direction)
        for direction in directions
        for name, seeds in by_name.items()
    ]


def write_tables(workdir: Path, runs: Sequence[ComparisonRun], directions: Sequence[str] = ("t2i",)) -> None:
    """Writes compare.md, compare.csv and compare.png, each atomically."""
    from tpr_jax.compare import plot  # imports matplotlib, which takes seconds

    summaries = summaries_of(runs, directions)
    write_text(workdir / "compare.md", table.render_markdown(summaries))
    write_text(workdir / "compare.csv", table.render_csv(summaries))
    write_whole(workdir / "compare.png", lambda path: Path(path).write_bytes(plot.render_png(summaries)))


if __name__ == "__main__":
    explain_and_exit(run, sys.argv, explain_stopped)
