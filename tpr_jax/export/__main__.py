"""Writes a model's two encoders in files that other programs run, without this project.

    python -m tpr_jax.export --model MODEL --out DIR [--format jax|saved_model|onnx]...
                             [--platforms cpu,cuda,tpu] [--dtype float32|bfloat16|float16]
                             [--image_size H W] [--backbone MODEL]

MODEL is whatever `from_pretrained` reads: what a run leaves, a CLIP's folder or hub id. What folds into CLIP
is folded first. The encoders take uint8 pixels [b, H, W, 3] and int32 ids [b, L] of any batch size b, and
give float32 features [b, e] of length 1. DIR/export.json says how inputs are made and how far each file,
loaded again, is from the model; tokenizer.json makes the ids.
"""

import argparse
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.cli.parser import Parser, path
from tpr_jax.errors import UserError
from tpr_jax.export.folder import check_place

FORMATS = ("jax", "saved_model", "onnx")
PLATFORMS = ("cpu", "cuda", "tpu")
DTYPES = ("float32", "bfloat16", "float16")


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line; `format` and `platforms` as tuples.

    Raises:
      UserError: a word of it is missing or unknown.
    """
    parser = Parser(
        prog="python -m tpr_jax.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=argparse.SUPPRESS,
    )
    parser.add_argument("--model", type=path, required=True, help="a folder or hub id")
    parser.add_argument(
        "--out", type=path, required=True, metavar="DIR", help="a new folder, or that of an older export"
    )
    parser.add_argument("--format", action="append", choices=FORMATS, help="several times; by default jax")
    parser.add_argument("--platforms", default=",".join(PLATFORMS), help="by default cpu,cuda,tpu")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of CLIP's weights and products")
    parser.add_argument(
        "--image_size", type=int, nargs=2, metavar=("H", "W"), help="by default the model's own"
    )
    parser.add_argument("--backbone", type=path, metavar="MODEL", help="where the model's CLIP is now")
    args = parser.parse_args(argv[1:])
    args.format = tuple(dict.fromkeys(args.format or ["jax"]))
    args.platforms = tuple(dict.fromkeys(word.strip() for word in args.platforms.split(",") if word.strip()))
    for word in args.platforms or [""]:
        if word not in PLATFORMS:
            raise UserError(f"--platforms: {word!r} is unknown: known are {', '.join(PLATFORMS)}")
    if args.image_size and min(args.image_size) < 1:
        raise UserError(f"--image_size {' '.join(map(str, args.image_size))}: must be above 0")
    return args


def run(argv: list[str]) -> None:
    """The command."""
    args = parse(argv)
    check_place(args.out)
    # The files are for any device; making them takes none, and leaves those that are here alone.
    os.environ["JAX_PLATFORMS"] = "cpu"
    # These import JAX: after that is set and the command line known to be sound.
    import tpr_jax
    from tpr_jax.export.write import write_export

    size = tuple(args.image_size) if args.image_size else None
    model = tpr_jax.from_pretrained(args.model, image_size=size, backbone=args.backbone)
    write_export(model, args.out, formats=args.format, platforms=args.platforms, dtype=args.dtype, say=print)


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
