"""Imports a checkpoint of another program as a folder that `from_pretrained` loads.

    python -m tpr_jax.import_checkpoint CHECKPOINT --method METHOD --out DIR [--image_size H W]
                                        [--act gelu|quick_gelu] [--heads VISION TEXT]
                                        [--image_mean R G B] [--image_std R G B] [--set NAME=VALUE]...

METHOD is dm_adapter, up_person, cskt or irra for the checkpoints of their authors' code; clip for a CLIP
under OpenAI's names, also inside a fine-tuned model such as RDE's or TBPS-CLIP's; open_clip for OpenCLIP's.
CHECKPOINT is a .pth, .pt, .bin, .safetensors or .npz file, an index of shards, or a folder. The command
prints what was read, skipped, left out and inferred. DIR must be new.
"""

import argparse
import ast
import os
import sys
from pathlib import Path
from typing import Any

from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.cli.parser import Parser, folder, path
from tpr_jax.errors import UserError

METHODS = ("dm_adapter", "up_person", "cskt", "irra", "clip", "open_clip")


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
      UserError: an argument is missing or unknown.
    """
    parser = Parser(
        prog="python -m tpr_jax.import_checkpoint",
        description="Converts a checkpoint of another program to a folder that from_pretrained loads.",
        examples=(
            "python -m tpr_jax.import_checkpoint best.pth --method irra --out models/irra",
            "python -m tpr_jax.import_checkpoint ViT-B-16.pt --method clip --out models/clip",
        ),
    )
    parser.add_argument(
        "checkpoint",
        type=path,
        metavar="CHECKPOINT",
        help="a .pth, .pt, .bin, .safetensors or .npz file, an index of shards, or a folder",
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        required=True,
        help="whose checkpoint it is; clip: under OpenAI's names, open_clip: under OpenCLIP's",
    )
    parser.add_argument("--out", type=folder, required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--image_size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="in pixels; default: as the checkpoint says",
    )
    parser.add_argument("--act", choices=("gelu", "quick_gelu"), help="the activation; default: as recorded")
    parser.add_argument(
        "--heads", type=int, nargs=2, metavar=("VISION", "TEXT"), help="attention heads; default: as recorded"
    )
    for name in ("image_mean", "image_std"):
        parser.add_argument(
            f"--{name}",
            type=float,
            nargs=3,
            metavar=("R", "G", "B"),
            help="in 0..1; default: as recorded, else CLIP's",
        )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the method that the weights do not record, such as top_k=2; may be repeated",
    )
    return parser.parse_args(argv[1:])


def parse_setting(text: str) -> tuple[str, Any]:
    """Returns the name and value of `NAME=VALUE`; a value that is not a Python literal is a string.

    Raises:
      UserError: there is no name or no `=`.
    """
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UserError(f"--set {text}: must be NAME=VALUE, such as top_k=2")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def run(argv: list[str]) -> None:
    """Runs the command.

    Raises:
      UserError: an argument is invalid, or the checkpoint cannot be converted.
    """
    args = parse(argv)
    os.environ["JAX_PLATFORMS"] = "cpu"  # nothing is computed
    # Imported after the platform is set, because they import JAX.
    from tpr_jax.import_checkpoint.convert import Settings, import_checkpoint
    from tpr_jax.weights import arguments

    settings = Settings(
        image_size=arguments.check_image_size(args.image_size),
        act=args.act,
        heads=arguments.check_heads(args.heads),
        image_mean=arguments.check_channels("image_mean", args.image_mean),
        image_std=arguments.check_channels("image_std", args.image_std),
        method=dict(map(parse_setting, args.set)),
    )
    import_checkpoint(args.checkpoint, args.method, Path(args.out), settings)


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
