"""Confirms or refutes the published results, on copies of the benchmarks that you have.

    python -m tpr_jax.reproduce --data cuhk_pedes=DIR icfg_pedes=DIR rstp_reid=DIR --workdir DIR
        [--methods NAME...] [--seeds N] [--quick] [--estimate] [--allow_subset] [--config.KEY=VALUE ...]
    python -m tpr_jax.reproduce --check reproduction.json --workdir DIR
    python -m tpr_jax.reproduce --check reproduction.json --with OTHER.json

The first form checks the copies, says how many hours everything takes on this device, and trains the papers'
recipes and ours, each run in a process and a folder of its own as `tpr_jax.compare` does. With several
benchmarks, every trained model is then tested on the others. DIR/reproduction.md and reproduction.json are
updated after every run: rerun the same command to resume. The second form compares somebody else's file with
your own.
"""

# ruff: noqa: E402 (signals are caught before the imports that take seconds)

import sys
from collections.abc import Sequence

from tpr_jax.cli.exit import early_ends, explain_and_exit, explain_stopped, stopped_at
from tpr_jax.utils import ending, signals

MODULE = "tpr_jax.reproduce"

if __name__ == "__main__":
    ending.exit_immediately(early_ends(MODULE, sys.argv))

import contextlib
import shlex
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tpr_jax.cli import parser as arguments
from tpr_jax.cli import settings as settings_lib
from tpr_jax.compare import outcome
from tpr_jax.compare import runs as compare_runs
from tpr_jax.errors import UserError
from tpr_jax.reproduce import compare, copies, document, estimate, follow, page, published, rows, transfer
from tpr_jax.reproduce import plan as plan_lib
from tpr_jax.reproduce.document import Document
from tpr_jax.reproduce.plan import Recipe
from tpr_jax.utils import locking
from tpr_jax.utils.files import remove_leftovers, write_text
from tpr_jax.utils.plural import counted
from tpr_jax.utils.suggest import nearest

# Keys that the command sets itself, with the flag to use instead.
OWN_KEYS = {
    "seed": "--seeds N",
    "dataset": "--data",
    "data_dir": "--data DATASET=DIR",
    "mix": "no other data",
}


Measurements = dict[tuple[str, str], estimate.Measurement]  # (method, data set) -> its measurement


class Arguments(NamedTuple):
    """A parsed command line; `data` maps benchmarks to their folders."""

    data: dict[str, str]
    workdir: Path | None
    methods: tuple[str, ...]
    seeds: int
    quick: bool
    estimate: bool
    allow_subset: bool
    settings: list[str]
    check: Path | None
    other: Path | None


class Plan(NamedTuple):
    """What is to be done: the command line, the checked copies and the recipes."""

    args: Arguments
    workdir: Path
    command: str
    copies: dict[str, copies.Copy]
    recipes: list[Recipe]


def parse(argv: Sequence[str]) -> Arguments:
    """Parses a command line.

    Raises:
      UserError: an argument is missing or wrong.
      SystemExit: after printing the help.
    """
    settings, words = settings_lib.split_settings(argv)
    parser = _make_parser()
    if len(argv) == 1:
        parser.print_help()
        raise SystemExit(2)
    for setting in settings:
        _check_setting(setting)
    args = parser.parse_args(words)
    seeds = args.seeds if args.seeds is not None else 1 if args.quick else 3
    parsed = Arguments(
        data=_parse_data(args.data),
        workdir=Path(args.workdir) if args.workdir else None,
        methods=_parse_methods(args.methods or plan_lib.DEFAULT_METHODS),
        seeds=seeds,
        quick=args.quick,
        estimate=args.estimate,
        allow_subset=args.allow_subset,
        settings=[*(plan_lib.QUICK_SETTINGS if args.quick else ()), *settings],
        check=Path(args.check) if args.check else None,
        other=Path(args.other) if args.other else None,
    )
    _check_arguments(parsed)
    return parsed


def _check_arguments(args: Arguments) -> None:
    if args.check is not None:
        if args.data:
            raise UserError("--check compares two files and trains nothing: leave out --data")
        if args.workdir is None and args.other is None:
            raise UserError("--check needs your own results: add --workdir DIR, or --with OTHER.json")
        return
    if args.other is not None:
        raise UserError("--with is the other file of --check: add --check reproduction.json")
    if not args.data:
        raise UserError("--data is missing: name your copies, such as --data cuhk_pedes=DIR rstp_reid=DIR")
    if args.workdir is None:
        raise UserError("--workdir is missing: name a folder for the results, such as --workdir runs/all")
    if args.seeds < 1:
        raise UserError(f"--seeds {args.seeds}: must be at least 1")


def _parse_data(words: Sequence[str]) -> dict[str, str]:
    data = {}
    for word in words:
        dataset, _, folder = word.partition("=")
        if dataset not in published.DATASETS:
            near = nearest(dataset, published.DATASETS)
            raise UserError(f"--data {word}: no published results are recorded for '{dataset}': {near}")
        if dataset in data:
            raise UserError(f"--data {word}: {dataset} is given twice: leave one out")
        if not folder:
            raise UserError(f"--data {word}: give the folder of your copy as --data {dataset}=DIR")
        data[dataset] = arguments.path(folder)
    return data


def _parse_methods(names: Sequence[str]) -> tuple[str, ...]:
    names = tuple(names)
    for name in names:
        if name not in published.METHODS:
            near = nearest(name, published.METHODS)
            raise UserError(f"--methods {name}: is not a recipe of this command: {near}")
        if names.count(name) > 1:
            raise UserError(f"--methods {name}: is given twice: leave one out")
    return names


def _check_setting(setting: str) -> None:
    name = settings_lib.key_of(setting)
    if name in OWN_KEYS:
        raise UserError(f"{setting}: is set by the command itself ({OWN_KEYS[name]}): leave it out")


def _make_parser() -> arguments.Parser:
    parser = arguments.Parser(
        prog="python -m tpr_jax.reproduce",
        usage="python -m tpr_jax.reproduce --data DATASET=DIR... --workdir DIR [--methods NAME...] "
        "[--seeds N] [--quick] [--estimate] [--allow_subset] [--config.KEY=VALUE ...]\n"
        "       python -m tpr_jax.reproduce --check FILE (--workdir DIR | --with FILE)",
        description="Trains the papers' recipes and ours on your benchmarks, and compares the scores.",
        examples=(
            "python -m tpr_jax.reproduce --data cuhk_pedes=DIR rstp_reid=DIR --workdir runs/reproduce",
            "python -m tpr_jax.reproduce --data cuhk_pedes=DIR --workdir runs/try --quick",
            "python -m tpr_jax.reproduce --check reproduction.json --workdir runs/reproduce",
        ),
        allow_abbrev=False,
    )
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="DATASET=DIR",
        help=f"your copies, which is required but for --check: some of {', '.join(published.DATASETS)}",
    )
    parser.add_argument(
        "--workdir",
        type=arguments.path,
        metavar="DIR",
        help="the folder for results and runs, which is required; rerun the same command to resume",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME",
        help=f"some of {', '.join(published.METHODS)}; default: {' '.join(plan_lib.DEFAULT_METHODS)}",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help="runs of each recipe, with the seeds 0 to N - 1; default: 3, with --quick 1",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one seed and one epoch, not comparable with the papers",
    )
    parser.add_argument(
        "--estimate", action="store_true", help="only say how long the runs take on this device"
    )
    parser.add_argument(
        "--allow_subset",
        action="store_true",
        help="accept copies of other sizes than the official ones, whose results are not comparable",
    )
    parser.add_argument(
        "--check",
        type=arguments.path,
        metavar="FILE",
        help="compare somebody else's reproduction.json with that in --workdir",
    )
    parser.add_argument(
        "--with",
        dest="other",
        type=arguments.path,
        metavar="FILE",
        help="with --check, compare with this file instead of that in --workdir",
    )
    settings_lib.add_settings(parser)
    return parser


def run(argv: list[str]) -> int:
    """Executes the runs that are not complete yet; or compares two files.

    Returns:
      The exit code: 0, or 1 if two files disagree.

    Raises:
      UserError: an argument, a copy of a benchmark or a file cannot be used (before anything runs), another
        process uses the folder, or this one was stopped by SIGTERM at its beginning.
      Stopped: this process was stopped; the results so far are written.
      SystemExit: with code 1 if runs failed.
    """
    with contextlib.ExitStack() as stack:
        try:
            with signals.raise_stopped("its beginning"):
                args = parse(argv)
                if args.check is not None:
                    return check_files(args.check, args.other or _own_file(args.workdir))
                planned = _prepare(args, argv, stack)
        except signals.Stopped as error:
            raise UserError(stopped_at(str(error), MODULE, argv)) from None
        with signals.catch_signals() as asked_to_stop:
            _execute(planned, asked_to_stop, argv)
    return 0


def _own_file(workdir: Path | None) -> Path:
    assert workdir is not None  # `parse` asks for it
    return workdir / document.NAME


def check_files(theirs: Path, ours: Path) -> int:
    """Prints how two reproductions compare; returns 0 if they agree, 1 if something differs.

    Raises:
      UserError: a file cannot be read.
    """
    comparisons = compare.compare(document.read(ours), document.read(theirs))
    print(compare.render(comparisons, {"ours": str(ours), "theirs": str(theirs)}))
    apart = [one for one in comparisons if one.is_apart]
    print(f"\n{counted(len(apart), 'row')} of {len(comparisons)} differ" if apart else "\nnothing differs")
    return 1 if apart else 0


def _prepare(args: Arguments, argv: Sequence[str], stack: contextlib.ExitStack) -> Plan:
    """Locks the workdir, plans the runs, and checks the copies of the benchmarks."""
    assert args.workdir is not None  # `parse` asks for it
    workdir = args.workdir
    stack.enter_context(locking.hold(workdir, "--workdir", "reproducing in this folder"))
    recipes = plan_lib.plan(args.methods, args.data, args.seeds, workdir, args.settings)
    _check_own_files(workdir, recipes)
    remove_leftovers(workdir, [document.NAME, page.NAME, copies.RECORD])
    checked = copies.check_copies(args.data, workdir, args.allow_subset)
    command = shlex.join(["python", "-m", "tpr_jax.reproduce", *argv[1:]])
    return Plan(args, workdir, command, checked, recipes)


def _check_own_files(workdir: Path, recipes: Sequence[Recipe]) -> None:
    """Rejects a workdir whose reproduction.json or reproduction.md this command has not written.

    Raises:
      UserError: a file is somebody else's.
    """
    path = workdir / document.NAME
    if path.exists():
        folders = [run.folder for recipe in recipes for run in recipe.runs]
        if not document.belongs_here(document.read(path), folders):
            raise UserError(
                f"{path}: has results of runs that are not in this folder: move it, or choose "
                "another --workdir"
            )
    path = workdir / page.NAME
    try:
        is_foreign = path.exists() and not path.read_text(encoding="utf-8").startswith(page.TITLE)
    except (OSError, ValueError):
        is_foreign = True
    if is_foreign:
        raise UserError(f"{path}: was not written by this command: move it, or choose another --workdir")


def _execute(planned: Plan, asked_to_stop: signals.PreemptionSignal, argv: Sequence[str]) -> None:
    """Estimates, executes the runs, tests across benchmarks, and prints the verdicts."""
    measured = _estimate(planned, asked_to_stop, argv)
    if planned.args.estimate:
        return
    _write(planned, measured)
    failed = _execute_runs(planned, measured, asked_to_stop, argv)
    not_tested = _test_across(planned, asked_to_stop, argv)
    result = _write(planned, measured)
    print(f"\n{page.render_text(result)}")
    print(f"\nwritten to {planned.workdir}: {page.NAME}, {document.NAME}; each run's files in NAME/seed_K/")
    if failed:
        total = len(plan_lib.in_order(planned.recipes))
        print(f"{failed} of {total} runs failed; rerun the same command to repeat them", file=sys.stderr)
    if not_tested:
        print("the test across data sets failed; rerun the same command to repeat it", file=sys.stderr)
    if failed or not_tested:
        raise SystemExit(1)


def _execute_runs(
    planned: Plan, measured: Measurements, asked_to_stop: signals.PreemptionSignal, argv: Sequence[str]
) -> int:
    """Executes the runs that are not complete, and writes the results after each; returns how many failed."""
    steps = {":".join(recipe): found.steps for recipe, found in measured.items()}
    runs, failed = plan_lib.in_order(planned.recipes), 0
    for number, one in enumerate(runs, 1):
        print(f"[{number} of {len(runs)}] {one.name}, seed {one.seed}", flush=True)
        count, total = partial(follow.steps, one.folder), steps.get(one.name, 0)
        with follow.follow(asked_to_stop, count, total, "steps") as stop:
            code, message = compare_runs.run_if_incomplete(one, stop, rows.DIRECTION)
        print(f"    {message}", flush=True)
        _write(planned, measured)
        if code is None:
            raise signals.Stopped(
                asked_to_stop.number, stopped_at(f"run {number} of {len(runs)}", MODULE, argv)
            )
        failed += code != 0
    return failed


def _estimate(planned: Plan, asked_to_stop: signals.PreemptionSignal, argv: Sequence[str]) -> Measurements:
    """Measures the recipes and prints how long the runs take."""
    runs = [run for recipe in planned.recipes for run in recipe.runs]
    if all(map(outcome.is_complete, runs)) and not planned.args.estimate:
        return _known_measurements(planned)
    measured = {}
    for number, recipe in enumerate(planned.recipes, 1):
        progress = f"{number} of {len(planned.recipes)}"
        found = estimate.measure(recipe, planned.workdir, asked_to_stop, progress)
        if found is None:
            raise signals.Stopped(asked_to_stop.number, stopped_at("the estimate of the time", MODULE, argv))
        measured[recipe.method, recipe.dataset] = found
    environment = next(iter(measured.values())).environment
    lines = estimate.summarize(planned.recipes, measured, with_cross=_has_transfer(planned))
    print(f"\n{estimate.render(lines, environment)}\n", flush=True)
    return measured


def _known_measurements(planned: Plan) -> Measurements:
    """Returns the measurements that were made before, for what they say about the weights."""
    known = {}
    for recipe in planned.recipes:
        found = estimate.read(estimate.file_of(recipe, planned.workdir), recipe.runs[0])
        known |= {} if found is None else {(recipe.method, recipe.dataset): found}
    return known


def _has_transfer(planned: Plan) -> bool:
    """Returns whether models are also tested on other benchmarks."""
    trains = any(run.mode == "train" for recipe in planned.recipes for run in recipe.runs)
    return trains and len(planned.args.data) > 1


def _test_across(planned: Plan, asked_to_stop: signals.PreemptionSignal, argv: Sequence[str]) -> int:
    """Tests the trained models on the other benchmarks; returns 1 if that failed, else 0."""
    if not _has_transfer(planned) or not rows.finished_models(planned.recipes):
        return 0
    cells = len(planned.args.data) * len(rows.finished_models(planned.recipes))
    print("every model on every data set", flush=True)
    count = partial(follow.files, planned.workdir / transfer.FOLDER / "cells")
    with follow.follow(asked_to_stop, count, cells, "scores") as stop:
        code, message = transfer.execute(planned.recipes, planned.args.data, planned.workdir, stop)
    print(f"    {message}", flush=True)
    if code is None:
        raise signals.Stopped(asked_to_stop.number, stopped_at("the test across data sets", MODULE, argv))
    return int(code != 0)


def _write(planned: Plan, measured: Measurements) -> Document:
    """Writes reproduction.json and reproduction.md from the runs that are complete."""
    weights = next((one.weights for one in measured.values()), None)
    sha256 = weights["sha256"] if weights else None
    result = Document(
        command=planned.command,
        quick=planned.args.quick,
        data=planned.copies,
        weights=weights,
        rows=[
            rows.make_row(recipe, planned.copies[recipe.dataset].subset, planned.args.quick, sha256)
            for recipe in planned.recipes
        ],
        transfer=transfer.read(planned.recipes, planned.workdir),
    )
    document.write(planned.workdir / document.NAME, result)
    write_text(planned.workdir / page.NAME, page.render(result))
    return result


if __name__ == "__main__":
    explain_and_exit(run, sys.argv, explain_stopped)
