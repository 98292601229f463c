"""Exports a model's two encoders to files that other programs run without this package.

    python -m tpr_jax.export --model MODEL --out DIR [--format jax|saved_model|onnx]...
                             [--platforms cpu,cuda,tpu] [--dtype float32|bfloat16|float16]
                             [--image_size H W] [--backbone MODEL]

MODEL is anything that `from_pretrained` loads: a saved model, a run, a CLIP folder or a hub id. Adapters that
can be merged into CLIP are merged first. The encoders take uint8 pixels [b, H, W, 3] and int32 ids [b, L] of
any batch size b and return L2-normalized float32 features [b, e]. DIR/export.json describes the inputs and
the error of each file against the model; tokenizer.json produces the ids.
"""

import argparse
import os
import sys

from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.cli.parser import Parser, path
from tpr_jax.errors import UserError
from tpr_jax.export.choices import DTYPES, FORMATS, PLATFORMS
from tpr_jax.export.folder import check_out_folder


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses the command line; `format` and `platforms` are tuples.

    Raises:
      UserError: an argument is missing or unknown.
    """
    parser = Parser(
        prog="python -m tpr_jax.export",
        description="Exports a model's two encoders to files that other programs run without this package.",
        examples=(
            "python -m tpr_jax.export --model runs/demo/model --out exported",
            "python -m tpr_jax.export --model runs/demo/model --out exported --format onnx --dtype float16",
        ),
    )
    parser.add_argument(
        "--model", type=path, required=True, help="a saved model, a run, a CLIP folder, or a hub id"
    )
    parser.add_argument(
        "--out",
        type=path,
        required=True,
        metavar="DIR",
        help="a new or empty folder, or that of an older export",
    )
    parser.add_argument("--format", action="append", choices=FORMATS, help="may be repeated (default jax)")
    parser.add_argument(
        "--platforms", default=",".join(PLATFORMS), help="platforms to lower for (default cpu,cuda,tpu)"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="type of CLIP's weights and computation"
    )
    parser.add_argument(
        "--image_size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="input size in pixels; by default that of the model",
    )
    parser.add_argument(
        "--backbone",
        type=path,
        metavar="MODEL",
        help="location of the backbone of a saved model; default: the one that it records",
    )
    args = parser.parse_args(argv[1:])
    args.format = tuple(dict.fromkeys(args.format or ["jax"]))
    args.platforms = tuple(dict.fromkeys(word.strip() for word in args.platforms.split(",") if word.strip()))
    for word in args.platforms or [""]:
        if word not in PLATFORMS:
            raise UserError(f"--platforms: {word!r} is unknown: choose from: {', '.join(PLATFORMS)}")
    if args.image_size and min(args.image_size) < 1:
        raise UserError(f"--image_size {' '.join(map(str, args.image_size))}: must be above 0")
    return args


def run(argv: list[str]) -> None:
    """Runs the command.

    Raises:
      UserError: an argument is invalid, or the export fails.
    """
    args = parse(argv)
    check_out_folder(args.out)
    # Lowering needs no accelerator, so the local ones are left alone.
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Imported after the platform is set, because they import JAX.
    import tpr_jax
    from tpr_jax.export.write import write_export

    size = tuple(args.image_size) if args.image_size else None
    model = tpr_jax.from_pretrained(args.model, image_size=size, backbone=args.backbone)
    write_export(model, args.out, formats=args.format, platforms=args.platforms, dtype=args.dtype, log=print)


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
