"""Tests models on data sets that they were not trained on: every model on every test split, in one table.

    python -m tpr_jax.cross MODEL... --data DATASET=DIR... [--out DIR]

MODEL is the --workdir of a finished run, or anything that `from_pretrained` reads (`clip-mini` or a hub id
for CLIP without training). DATASET is mini_pedes, cuhk_pedes, icfg_pedes, rstp_reid, ...; without =DIR its
folder is data/<its name>, or the bundled MiniPEDES. Scores have both directions.

DIR/cross.md and DIR/cross.csv (default: runs/cross) are updated after every pair of model and data set, and
DIR/cells keeps a file for each. Rerun the same command to resume: it scores only what is new or has changed.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tpr_jax.cli import parser as arguments
from tpr_jax.cli.exit import explain_and_exit, resume_hint, verdict
from tpr_jax.config import defaults as config_lib
from tpr_jax.cross import score as score_lib
from tpr_jax.cross import table
from tpr_jax.cross.tested import describe_model, describe_split
from tpr_jax.data.datasets import DATASETS, data_folder
from tpr_jax.errors import UserError
from tpr_jax.utils import locking
from tpr_jax.utils.files import remove_leftovers, remove_leftovers_matching, write_json, write_text


class Arguments(NamedTuple):
    """A parsed command line; `data` maps data sets to their folders."""

    models: list[str]
    data: dict[str, str]
    out: Path


def parse(argv: Sequence[str]) -> Arguments:
    """Parses a command line.

    Raises:
      UserError: an argument is missing or wrong.
      SystemExit: after printing the help.
    """
    parser = _make_parser()
    if len(argv) == 1:
        parser.print_help()
        raise SystemExit(2)
    args = parser.parse_intermixed_args(list(argv[1:]))
    if not args.models:
        raise UserError("no model is named: give some, such as runs/demo clip-mini, before --data")
    if not args.data:
        raise UserError("--data is missing: name what to test on, such as --data mini_pedes cuhk_pedes=DIR")
    data = {}
    for word in args.data:
        dataset, _, folder = word.partition("=")
        if dataset not in DATASETS:
            near = config_lib.nearest(dataset, DATASETS)
            raise UserError(f"--data {word}: data set '{dataset}' is unknown: {near}")
        if dataset in data:
            raise UserError(f"--data {word}: {dataset} is given twice: leave one out")
        if dataset == "folder" and not folder:
            raise UserError("--data folder: give the folder of your data as --data folder=DIR")
        data[dataset] = data_folder(dataset, arguments.path(folder))
    return Arguments(args.models, data, Path(args.out))


def _make_parser() -> arguments.Parser:
    parser = arguments.Parser(
        prog="python -m tpr_jax.cross",
        usage="python -m tpr_jax.cross MODEL... --data DATASET[=DIR]... [--out DIR]",
        description="Tests every model on every test split, also of data sets that it was not trained on.",
        examples=(
            "python -m tpr_jax.cross runs/demo clip-mini --data mini_pedes",
            "python -m tpr_jax.cross runs/cuhk --data icfg_pedes=DIR rstp_reid=DIR --out runs/transfer",
        ),
        allow_abbrev=False,
    )
    parser.add_argument(
        "models",
        nargs="*",
        type=arguments.path,
        metavar="MODEL",
        help="the workdir of a finished run, a CLIP folder, a hub id, or clip-mini",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="DATASET[=DIR]",
        help=f"what to test on, which is required: {', '.join(DATASETS)}; without =DIR the folder is "
        "data/<its name>, or the bundled MiniPEDES",
    )
    parser.add_argument(
        "--out",
        type=arguments.path,
        default=str(Path("runs") / "cross"),
        metavar="DIR",
        help="the folder for the tables; rerun the same command to score only what is new",
    )
    return parser


def run(argv: list[str]) -> None:
    """Computes the missing scores, and writes and prints the tables.

    Raises:
      UserError: a model or data set cannot be used; raised before anything is scored.
    """
    args = parse(argv)
    with locking.hold(args.out, "--out", "writing these tables"):
        remove_leftovers(args.out, ["cross.md", "cross.csv"])
        remove_leftovers_matching(args.out / "cells", r".+\.json")
        text = _score_all(args)
    print(f"\n{text}\nwritten to {args.out}: cross.md, cross.csv, cells/")


def _score_all(args: Arguments) -> str:
    """Scores every model on every data set and writes the tables after each; returns the last cross.md."""
    models = [describe_model(name) for name in args.models]
    for i, model in enumerate(models):
        if model.sha256 in [other.sha256 for other in models[:i]]:
            raise UserError(f"{model.name} is the same model as another that is given: leave one out")
    splits = {dataset: describe_split(dataset, folder) for dataset, folder in args.data.items()}
    notes = [note for split in splits.values() for note in split.notes]
    cells = []
    for model in models:
        loaded = None
        for dataset, split in splits.items():
            progress = f"[{len(cells) + 1} of {len(models) * len(splits)}]"
            print(f"{progress} {model.name} on {dataset}: ", end="", flush=True)
            name = f"{model.sha256[:12]}-{dataset}-{split.annotation_sha256[:12]}.json"
            path = args.out / "cells" / name
            source = split.source()
            scores = score_lib.read_cell(path, {"sha256": model.sha256, **source})
            done = scores is not None
            if not done:
                loaded = loaded or score_lib.load(model.location)
                scores = score_lib.score(loaded, split.records)
                write_json(
                    path, {**dataclasses.asdict(model), "tested_on": dataset, **source, "test": scores}
                )
            print(f"R@1 {scores['t2i']['R1']:.2f}" + (", already done" if done else ""), flush=True)
            cells.append(table.Cell(model.name, model.trained_on, dataset, scores))
            write_text(args.out / "cross.md", table.render_markdown(cells, notes))
            write_text(args.out / "cross.csv", table.render_csv(cells))
    return table.render_markdown(cells, notes)


def main(argv: list[str]) -> None:
    """Runs the command; an interrupt ends it with the command to resume."""

    def explain(error: BaseException) -> tuple[int, str]:
        if isinstance(error, KeyboardInterrupt):
            return 130, f"\nerror: interrupted; {resume_hint('tpr_jax.cross', argv)}"
        return verdict(error, argv)

    explain_and_exit(run, argv, explain)


if __name__ == "__main__":
    main(sys.argv)
