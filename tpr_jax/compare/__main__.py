"""Trains several configs with several seeds each and puts what came out side by side.

    python -m tpr_jax.compare CONFIG... --seeds N --workdir DIR [--direction t2i|i2t|both]
                              [--config.KEY=VALUE ...]

CONFIG is configs/NAME.py[:DATASET]; seeds are 0 to N - 1; a setting --config.KEY=VALUE holds for every run.
The scores are those of text queries (t2i, the default), of image queries (i2t), or both, a table each.
Each run is `python -m tpr_jax.main` in a process and a folder of its own, DIR/NAME/seed_K, with all it prints
in log.txt. After every run DIR/compare.md, compare.csv and compare.png hold what there is so far. The same
command again goes on where it was interrupted, tries failed runs again, and repeats no finished one.
"""

# ruff: noqa: E402 (signals are caught before the imports that take seconds)

import shlex
import signal
import sys
from collections.abc import Sequence

from tpr_jax.utils import signals


def _early_ends(argv: Sequence[str]) -> dict[int, tuple[int, str]]:
    """What a signal ends with before the comparison has begun: with the words of a later one."""
    line = f"error: {_stopped_at('its beginning', argv)}"
    return {signal.SIGTERM: (2, line), signal.SIGINT: (2, line)}


def _stopped_at(where: str, argv: Sequence[str]) -> str:
    return f"stopped at {where}; to go on: {shlex.join(['python', '-m', 'tpr_jax.compare', *argv[1:]])}"


if __name__ == "__main__":
    signals.exit_immediately(_early_ends(sys.argv))

import contextlib
import re
from pathlib import Path

from tpr_jax.cli import parser as arguments
from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.compare import outcome
from tpr_jax.compare import runs as compare_runs
from tpr_jax.compare import table as compare_table
from tpr_jax.compare.table import DIRECTIONS, summarize
from tpr_jax.errors import UserError
from tpr_jax.utils import locking
from tpr_jax.utils.files import remove_leftovers, write_text, write_whole


def parse(argv: Sequence[str]) -> tuple[list[str], int, Path, tuple[str, ...], list[str]]:
    """(configs, number of seeds, workdir, directions to show, settings for every run) of a command line."""
    settings = [word for word in argv[1:] if re.match(r"--?(no)?config\.", word)]
    for setting in settings:
        key, equals, _ = setting.partition("=")
        if not equals and not key.lstrip("-").startswith("no"):
            raise UserError(f"{setting}: settings are written --config.KEY=VALUE")
        if key.endswith("config.seed"):
            raise UserError(f"{setting}: the seeds are 0 to N - 1 of --seeds N: leave it out")
    parser = arguments.Parser(
        prog="python -m tpr_jax.compare", usage=__doc__, add_help=False, allow_abbrev=False
    )
    parser.add_argument("configs", nargs="*", type=arguments.path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", type=arguments.path)
    parser.add_argument("--direction", default="t2i")
    parser.add_argument("-h", "--help", action="store_true")
    args = parser.parse_args([word for word in argv[1:] if word not in settings])
    if args.help or len(argv) == 1:
        print(__doc__.strip())
        raise SystemExit(0 if args.help else 2)
    if not args.configs:
        raise UserError("no config is named: give some, such as configs/dm_adapter.py configs/zero_shot.py")
    if args.seeds < 1:
        raise UserError(f"--seeds {args.seeds}: at least 1 is needed")
    if not args.workdir:
        raise UserError("--workdir is missing: name a folder for what is written, such as --workdir runs/all")
    if args.direction not in (*DIRECTIONS, "both"):
        raise UserError(f"--direction {args.direction} is unknown: choose one of t2i, i2t, both")
    directions = tuple(DIRECTIONS) if args.direction == "both" else (args.direction,)
    return args.configs, args.seeds, Path(args.workdir), directions, settings


def run(argv: list[str]) -> None:
    """Parses, runs what is not there yet, and writes and prints the table.

    Raises:
      UserError: the command line, or one of the configs, cannot be used (before anything is run), another
        comparison is at work in the folder, or this one was interrupted.
      SystemExit: with code 1 where runs failed.
    """
    with contextlib.ExitStack() as held:
        try:
            with signals.raise_stopped("its beginning"):
                configs, seeds, workdir, directions, settings = parse(argv)
                held.enter_context(locking.hold(workdir, "--workdir", "comparing in this folder"))
                runs = compare_runs.plan(configs, seeds, workdir, settings)
                remove_leftovers(workdir, ["compare.md", "compare.csv", "compare.png"])
        except signals.Stopped as error:
            raise UserError(_stopped_at(str(error), argv)) from None
        _compare(runs, workdir, directions, argv)


def _compare(runs: Sequence[dict], workdir: Path, directions: Sequence[str], argv: Sequence[str]) -> None:
    """Runs what is not there yet and writes the table after each run; see `run` for what it raises."""
    failed = 0
    with signals.catch_signals() as asked_to_stop:
        for number, one in enumerate(runs, 1):
            print(f"[{number} of {len(runs)}] {one['name']}, seed {one['seed']}: ", end="", flush=True)
            code, said = _run_one(one, asked_to_stop, directions[0])
            print(said, flush=True)
            if code is None:
                write_tables(workdir, runs, directions)
                raise UserError(_stopped_at(f"run {number} of {len(runs)}", argv))
            failed += code != 0
            write_tables(workdir, runs, directions)
    print(f"\n{compare_table.text(rows_of(runs, directions))}", end="")
    print(f"\nwritten to {workdir}: compare.md, compare.csv, compare.png; each run's files in NAME/seed_K/")
    if failed:
        print(f"{failed} of {len(runs)} runs failed; the same command tries them again", file=sys.stderr)
        raise SystemExit(1)


def _run_one(one: dict, asked_to_stop, direction: str) -> tuple[int | None, str]:
    """(exit code or None where it was stopped, what to say of it)."""
    with compare_runs.alone(one, asked_to_stop, lambda words: print(words, end=" ... ", flush=True)) as mine:
        if mine is None or asked_to_stop():
            return None, "not begun"
        whole = outcome.is_whole(mine)
        if not whole:
            code, said = compare_runs.execute(mine, asked_to_stop)
            if code is None:
                return None, said
            if code:
                return code, f"FAILED (exit code {code}): {said}\n    see {one['folder'] / 'log.txt'}"
        scores = outcome.outcome(mine)["scores"][direction]
        return 0, f"R@1 {scores['R1']:.2f}" + (", was there already" if whole else "")


def rows_of(runs: Sequence[dict], directions: Sequence[str] = ("t2i",)) -> list[dict]:
    """The tables' rows of what there is now: the configs in their order, once for each direction."""
    names = dict.fromkeys(run["name"] for run in runs)
    ours = {name: [run for run in runs if run["name"] == name] for name in names}
    outcomes = {name: list(map(outcome.outcome, ours[name])) for name in names}
    return [
        summarize(name, ours[name][0]["config"]["dataset"], outcomes[name], direction)
        for direction in directions
        for name in names
    ]


def write_tables(workdir: Path, runs: Sequence[dict], directions: Sequence[str] = ("t2i",)) -> None:
    """compare.md, compare.csv and compare.png of what there is now; each appears whole or not at all."""
    from tpr_jax.compare import (
        plot as compare_png,  # takes matplotlib, which a mistaken command line should not wait for
    )

    rows = rows_of(runs, directions)
    write_text(workdir / "compare.md", compare_table.markdown(rows))
    write_text(workdir / "compare.csv", compare_table.comma_separated(rows))
    write_whole(workdir / "compare.png", lambda path: Path(path).write_bytes(compare_png.picture(rows)))


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
