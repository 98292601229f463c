"""Adapts a trained model to photos of one's own cameras, without labels.

    python -m tpr_jax.adapt --model MODEL --photos PHOTOS [--texts FILE] --out DIR

PHOTOS is a folder, a .csv, .tsv or .jsonl table with boxes, or an index of `search`; FILE has one
description a line, of people in the photos. Only the LayerNorms are trained, or with `--train parts` the
parts of the model's own method. DIR is then a model for `search index --model`, `cross` and
`from_pretrained`. Rerun the same command to resume.
"""

# ruff: noqa: E402 (signals are caught before the imports that take seconds)

import sys

from tpr_jax.cli import exit as command_exit
from tpr_jax.utils import ending

MODULE = "tpr_jax.adapt"

if __name__ == "__main__":
    ending.exit_immediately(command_exit.early_ends(MODULE, sys.argv))

import argparse
import math
from pathlib import Path

from tpr_jax.cli.parser import Parser, folder, path
from tpr_jax.errors import UserError
from tpr_jax.utils.seeds import check_seed
from tpr_jax.utils.signals import SIGNALS, Stopped

TRAIN = ("layer_norm", "parts")


def parser() -> Parser:
    """Builds the command-line parser."""
    found = Parser(
        prog="python -m tpr_jax.adapt",
        description="Adapts a trained model to photos and descriptions that have no labels.",
        examples=(
            "python -m tpr_jax.adapt --model clip-street --photos PHOTOS --texts queries.txt --out gate",
            "python -m tpr_jax.adapt --model runs/demo --photos INDEX --train parts --out gate",
        ),
    )
    add = found.add_argument
    add(
        "--model",
        type=path,
        required=True,
        help="a saved model, a run, a CLIP folder, clip-street, or a hub id",
    )
    add(
        "--photos",
        type=path,
        required=True,
        help="a folder, a .csv, .tsv or .jsonl table, or an index of search",
    )
    add("--texts", type=path, metavar="FILE", help="one description a line; default: made-up descriptions")
    add("--out", type=folder, required=True, metavar="DIR", help="the folder of the new model")
    add("--train", choices=TRAIN, default="layer_norm", help="layer_norm, or the parts of the model's method")
    add("--steps", type=int, default=20, metavar="N", help="number of updates")
    add("--lr", type=float, default=2e-3, metavar="X", help="learning rate at the beginning; it falls to 0")
    add(
        "--temperature", type=float, default=0.05, metavar="T", help="what cosine similarities are divided by"
    )
    add(
        "--batch_size",
        type=int,
        default=32,
        metavar="B",
        help="photos in a batch, beside twice as many texts",
    )
    add("--seed", type=int, default=0, help="seed of order and augmentation")
    return found


def check(args: argparse.Namespace) -> None:
    """Checks the numbers.

    Raises:
      UserError: one is out of range; the message names it.
    """
    for name in ("steps", "batch_size"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: must be at least 1")
    for name in ("lr", "temperature"):
        value = getattr(args, name)
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"--{name} {value}: must be a number above 0")
    check_seed(args.seed, "--seed")


def run(argv: list[str]) -> None:
    """Runs the command.

    Raises:
      UserError: an argument is invalid, or an input cannot be used.
    """
    args = parser().parse_args(argv[1:])
    check(args)
    # Imports JAX, so only after the arguments are checked.
    from tpr_jax.adapt.run import Settings, adapt
    from tpr_jax.perf import compilation_cache

    compilation_cache.enable()
    adapt(Settings(**{key: value for key, value in vars(args).items() if key != "out"}), Path(args.out))
    print(f"model written to {args.out}")


def explain(error: BaseException) -> tuple[int, str]:
    """Returns the exit code and the line to print, for a stopped adaptation with the command to resume."""
    code, line = command_exit.explain_stopped(error)
    if isinstance(error, Stopped):
        line = f"{line}; {command_exit.resume_hint(MODULE, sys.argv)}"
    return code, line


if __name__ == "__main__":
    command_exit.explain_and_exit(run, sys.argv, explain, raising=SIGNALS)
