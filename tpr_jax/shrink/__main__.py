"""Writes a smaller CLIP that has some of the blocks of a model, as the start of a student.

    python -m tpr_jax.shrink --model MODEL --vision_blocks N --text_blocks N --out DIR

MODEL is what `from_pretrained` loads, such as a run's folder; LoRA and tuned weights are merged. DIR must be
new. Train it with `--config.backbone=DIR`; with `--config.distill.teacher=MODEL` it learns from the model.
"""

import argparse
import os
import sys

from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.cli.parser import Parser, folder, path


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
      UserError: an argument is missing or unknown.
    """
    parser = Parser(
        prog="python -m tpr_jax.shrink",
        description="Writes a smaller CLIP with some of the blocks of a model, to be trained as its student.",
        examples=(
            "python -m tpr_jax.shrink --model clip-mini --vision_blocks 3 --text_blocks 2 --out data/student",
        ),
    )
    parser.add_argument(
        "--model", type=path, required=True, help="a model or run folder, a hub id, or a bundled name"
    )
    for tower in ("vision", "text"):
        parser.add_argument(
            f"--{tower}_blocks", type=int, required=True, metavar="N", help=f"blocks of the {tower} tower"
        )
    parser.add_argument("--out", type=folder, required=True, metavar="DIR", help="a new folder")
    return parser.parse_args(argv[1:])


def run(argv: list[str]) -> None:
    """Runs the command.

    Raises:
      UserError: an argument is invalid, or the model cannot be read or shrunk.
    """
    args = parse(argv)
    os.environ["JAX_PLATFORMS"] = "cpu"  # nothing is computed
    # Imported after the platform is set, because they import JAX.
    from tpr_jax import from_pretrained
    from tpr_jax.shrink.blocks import keep_blocks
    from tpr_jax.weights.new_folder import check_new_folder, write_new_folder

    check_new_folder(args.out)
    student = keep_blocks(from_pretrained(args.model), args.vision_blocks, args.text_blocks)
    write_new_folder(args.out, student.save_pretrained)
    numbers = student.config.vision_layers, student.config.text_layers
    print(f"written: {args.out}, with {numbers[0]} blocks of the vision and {numbers[1]} of the text tower")


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
