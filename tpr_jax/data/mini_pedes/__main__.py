"""Renders a synthetic data set in CUHK-PEDES' format: `python -m tpr_jax.data.mini_pedes --out DIR`."""

import os
import sys

from tpr_jax.cli.exit import exit_code, explain_and_exit
from tpr_jax.cli.parser import Parser, path
from tpr_jax.errors import UserError
from tpr_jax.utils.plural import counted
from tpr_jax.utils.seeds import check_seed


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and 16 <= int(height) <= 2048 and 16 <= int(width) <= 2048):
        raise UserError(f"--size {text}: give HEIGHTxWIDTH in pixels between 16 and 2048, such as 192x64")
    return int(height), int(width)


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, or 2 after one line on stderr."""
    return exit_code(run, ["mini_pedes", *(sys.argv[1:] if argv is None else argv)])


def run(argv: list[str]) -> None:
    """Runs the command.

    Raises:
      UserError: an argument is wrong, or a file cannot be written.
    """
    parser = Parser(
        prog="python -m tpr_jax.data.mini_pedes",
        description="Renders a synthetic data set in the format of CUHK-PEDES.",
        examples=(
            "python -m tpr_jax.data.mini_pedes --out data/more --split train --identities 1000",
            "python -m tpr_jax.data.mini_pedes --hard --out data/hard",
        ),
    )
    parser.add_argument("--out", type=path, required=True, help="folder for reid_raw.json and imgs/")
    parser.add_argument(
        "--split", default="all", choices=("train", "val", "test", "all"), help="what to render"
    )
    parser.add_argument(
        "--identities",
        type=int,
        help="people in the split (for 'all': in train); default: the domain's own number",
    )
    parser.add_argument("--size", default="192x64", help="HEIGHTxWIDTH in pixels")
    parser.add_argument(
        "--domain", choices=("mini", "pretrain", "street"), help="whose clothes and scenes; default: mini"
    )
    parser.add_argument(
        "--hard", action="store_true", help="look-alikes, crowds, occlusion, night, blur; other words in test"
    )
    parser.add_argument("--seed", type=int, default=0, help="selects the people")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="number of processes")
    args = parser.parse_args(argv[1:])
    size = _size(args.size)
    for name, minimum in (("identities", 1), ("seed", 0), ("processes", 1)):
        value = getattr(args, name)
        if value is not None and value < minimum:
            raise UserError(f"--{name} {value}: give a whole number of at least {minimum}")
    check_seed(args.seed, "--seed")
    if args.hard and args.domain:
        raise UserError(f"--hard has clothes and scenes of its own: leave out --domain {args.domain}")
    # One thread each: the matmuls are small and the processes fill the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from tpr_jax.data.mini_pedes.generate import generate

    try:
        records = generate(
            args.out,
            split=args.split,
            identities=args.identities,
            size=size,
            domain="hard" if args.hard else args.domain or "mini",
            seed=args.seed,
            processes=args.processes,
        )
    except OSError as error:
        raise UserError(f"cannot write {error.filename or args.out}: {error.strerror}") from error
    people = counted(len({r["id"] for r in records}), "person", "people")
    print(f"{counted(len(records), 'image')} of {people} in {args.out}")


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
