"""Writes the images of WebPerson's Parquet files as files: `python -m tpr_jax.data.unpack_webperson DIR`."""

import sys

from tpr_jax.cli.exit import exit_code, explain_and_exit
from tpr_jax.cli.parser import Parser, path
from tpr_jax.data.unpack_webperson import unpack
from tpr_jax.utils.plural import counted


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, or 2 after one line on stderr."""
    return exit_code(run, ["unpack_webperson", *(sys.argv[1:] if argv is None else argv)])


def run(argv: list[str]) -> None:
    """Runs the command.

    Raises:
      UserError: an argument is wrong, or a file cannot be read or written.
    """
    parser = Parser(
        prog="python -m tpr_jax.data.unpack_webperson",
        description="Writes the images of WebPerson's Parquet files as files; a rerun resumes.",
        examples=("python -m tpr_jax.data.unpack_webperson data/WebPerson-5M",),
    )
    parser.add_argument("folder", metavar="DIR", type=path, help="the folder that holds data/train-*.parquet")
    args = parser.parse_args(argv[1:])
    written, found = unpack(args.folder)
    print(f"{counted(written, 'image')} written to {args.folder}/images, {found:,} already there")


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
