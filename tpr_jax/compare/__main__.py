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

import signal
import sys
from collections.abc import Sequence

from tpr_jax.cli.exit import explain_and_exit, resume_hint, verdict
from tpr_jax.utils import ending, signals


def _stopped_at(where: str, argv: Sequence[str]) -> str:
    return f"stopped at {where}; {resume_hint('tpr_jax.compare', argv)}"


def _early_ends(argv: Sequence[str]) -> dict[int, tuple[int, str]]:
    """Returns how a signal ends the process before the comparison has begun."""
    line = f"error: {_stopped_at('its beginning', argv)}"
    return {signal.SIGTERM: (2, line), signal.SIGINT: (130, line)}


if __name__ == "__main__":
    ending.exit_immediately(_early_ends(sys.argv))

import contextlib
import re
from pathlib import Path
from typing import NamedTuple

from tpr_jax.cli import parser as arguments
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
    settings = [word for word in argv[1:] if re.match(r"--?(no)?config\.", word)]
    for setting in settings:
        _check_setting(setting)
    parser = _make_parser()
    if len(argv) == 1:
        parser.print_help()
        raise SystemExit(2)
    args = parser.parse_args([word for word in argv[1:] if word not in settings])
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
    # Only for the help, since `parse` takes these words out; one word, as it must be written.
    parser.add_argument(
        "--config.KEY=VALUE", action="store_true", help="a key of all configs; can be repeated"
    )
    return parser


def _check_setting(setting: str) -> None:
    key, equals, _ = setting.partition("=")
    if not equals and not key.lstrip("-").startswith("no"):
        raise UserError(f"{setting}: settings are written --config.KEY=VALUE")
    if key.endswith("config.seed"):
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
            raise UserError(_stopped_at(str(error), argv)) from None
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
                raise signals.Stopped(asked_to_stop.number, _stopped_at(f"run {number} of {len(runs)}", argv))
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


def explain(error: BaseException) -> tuple[int, str]:
    """Returns the exit code and the line to print for an error; no line if the user cannot fix it."""
    if isinstance(error, signals.Stopped):
        return (130 if error.number == signal.SIGINT else 2), f"error: {error}"
    return verdict(error, sys.argv)


if __name__ == "__main__":
    explain_and_exit(run, sys.argv, explain)
