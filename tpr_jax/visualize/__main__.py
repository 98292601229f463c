"""Pictures of what a model finds and of what happens inside it.

    python -m tpr_jax.visualize grid    --model MODEL --out DIR  sentences and the photos that they find
    python -m tpr_jax.visualize experts --model MODEL --out DIR  where patches and words are sent (mixtures)
    python -m tpr_jax.visualize prefix  --model MODEL --out DIR  attention to learned prefix tokens
    python -m tpr_jax.visualize words   --model MODEL --out DIR  how alike patches are to a sentence's words
    python -m tpr_jax.visualize map     --model MODEL --out DIR  a map (t-SNE) of photos and captions

of the test split of MiniPEDES, or of another data set (--data_dir), or of own photos and sentences (--photos,
--text). Each writes a page, DIR/grid.html and so on, with its pictures inside, and the pictures as PNG.
"""

import argparse
import os
import sys
from types import ModuleType

# XLA writes notices of its own to the terminal; errors still come through.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.cli.parser import Parser, path
from tpr_jax.errors import UserError

COMMANDS = {
    "grid": "sentences and the photos that they find",
    "experts": "the expert of a mixture that each patch and word is sent to",
    "prefix": "how much attention goes to prefix tokens",
    "words": "how alike each patch is to a sentence and to its words",
    "map": "a map (t-SNE) of the features of photos and captions",
}
TITLES = {
    "grid": "What sentences find",
    "experts": "Which expert sees what",
    "prefix": "Attention to the prefix",
    "words": "Patches and words",
    "map": "A map of features",
}
NEED_TEXT = ("grid", "words")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = Parser(
        prog="python -m tpr_jax.visualize",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name, what in COMMANDS.items():
        command = commands.add_parser(name, help=what, description=what)
        add = command.add_argument
        add(
            "--model",
            type=path,
            required=True,
            help="a folder that a run left (runs/demo/model), a CLIP, or a hub id",
        )
        add(
            "--out",
            type=path,
            required=True,
            metavar="DIR",
            help="folder for the pictures: new, or with such ones only",
        )
        add(
            "--photos",
            type=path,
            nargs="+",
            metavar="PATH",
            help="own photos: folders, pictures, a .csv or .jsonl of them",
        )
        add("--text", nargs="+", metavar="TEXT", help="own sentences, in place of a data set's captions")
        add(
            "--data_dir",
            type=path,
            metavar="DIR",
            help="a data set's folder; without one MiniPEDES as bundled",
        )
        add(
            "--dataset",
            metavar="NAME",
            help="its layout, such as rstp_reid; by default what --data_dir looks like",
        )
        add("--split", help="test by default; or train, val")
        add("--image_size", type=int, nargs=2, metavar=("H", "W"), help="by default the model's own")
        if name == "grid":
            add("--number", type=int, default=12, metavar="N", help="captions of a data set to take; 12")
            add("--top_k", type=int, default=10, metavar="N", help="photos a sentence; 10")
        elif name == "map":
            add("--identities", type=int, default=12, metavar="N", help="people of a data set to take; 12")
            add("--seed", type=int, default=0, help="of the map")
        else:
            add("--number", type=int, default=3, metavar="N", help="photos to draw; 3")
    return top


def run(argv: list[str]) -> None:
    """Parses, draws, and says where. Raises UserError."""
    args = parser().parse_args(argv[1:])
    for key in ("number", "top_k", "identities"):
        if getattr(args, key, 1) < 1:
            raise UserError(f"--{key} {getattr(args, key)}: must be at least 1")
    if getattr(args, "seed", 0) not in range(2**32):
        raise UserError(f"--seed {args.seed}: must lie between 0 and {2**32 - 1}")
    if args.image_size and min(args.image_size) < 1:
        raise UserError(f"--image_size {' '.join(map(str, args.image_size))}: must be above 0")
    # These import JAX or matplotlib: after the command line is known to be sound.
    from tpr_jax.visualize import folder

    folder.check(args.out)
    shown = shown_of(args)
    import tpr_jax

    model = tpr_jax.from_pretrained(args.model, tuple(args.image_size) if args.image_size else None)
    title = f"{TITLES[args.command]}: {args.model} on {shown.label}"
    names = ("number", "top_k", "identities", "seed")
    settings = {name: getattr(args, name) for name in names if hasattr(args, name)}
    files = _module(args.command).make(model, shown, title=title, **settings)
    folder.write(args.out, args.command, files)
    pictures = sum(name.endswith(".png") for name in files)
    beside = "one picture" if pictures == 1 else f"{pictures} pictures"
    print(f"{args.out}/{args.command}.html; {beside} as PNG beside it")


def shown_of(args: argparse.Namespace):
    """The photos and sentences that a command line asks for.

    Raises:
      UserError: there are none, or the words contradict each other.
    """
    from dataclasses import replace

    from tpr_jax.visualize import inputs

    if not args.photos:
        shown = inputs.split_of(args.dataset, args.data_dir, args.split or "test")
        if args.text:
            return replace(shown, texts=inputs.sentences(args.text), text_pids=None, described=None)
        return shown
    for name in ("data_dir", "dataset", "split"):
        if getattr(args, name) is not None:
            raise UserError(f"--{name} and --photos: leave one of them out")
    if not args.text and args.command in NEED_TEXT:
        raise UserError(
            "--text is missing: own photos want a sentence, such as --text 'a woman in a red coat'"
        )
    return inputs.own(args.photos, args.text or [])


def _module(command: str) -> ModuleType:
    from tpr_jax.visualize import experts, grid, map, prefix, words

    return {"grid": grid, "experts": experts, "prefix": prefix, "words": words, "map": map}[command]


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
