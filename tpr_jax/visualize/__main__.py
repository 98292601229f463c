"""Draws what a model retrieves and what it computes inside.

    python -m tpr_jax.visualize grid    --model MODEL --out DIR  sentences and the photos they retrieve
    python -m tpr_jax.visualize experts --model MODEL --out DIR  the experts of patches and words (MoE)
    python -m tpr_jax.visualize prefix  --model MODEL --out DIR  attention to learned prefix tokens
    python -m tpr_jax.visualize words   --model MODEL --out DIR  similarity of patches and words
    python -m tpr_jax.visualize map     --model MODEL --out DIR  t-SNE map of photos and captions

By default it uses the test split of MiniPEDES; --data_dir selects another data set, --photos and --text your
own photos and sentences. Each command writes a page, such as DIR/grid.html, and its figures as PNG files.
"""

import argparse
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.cli.parser import Parser, path
from tpr_jax.errors import UserError

if TYPE_CHECKING:
    from tpr_jax.visualize.inputs import Examples

COMMANDS = {
    "grid": "sentences and the photos they retrieve",
    "experts": "the experts that each patch and word is routed to",
    "prefix": "how much attention goes to prefix tokens",
    "words": "the similarity of each patch to a sentence and to its words",
    "map": "a t-SNE map of the features of photos and captions",
}
TITLES = {
    "grid": "Retrieved photos",
    "experts": "Experts of patches and words",
    "prefix": "Attention to the prefix",
    "words": "Patches and words",
    "map": "Map of features",
}
NEED_TEXT = ("grid", "words")


def parser() -> argparse.ArgumentParser:
    """Builds the command-line parser."""
    top = Parser(
        prog="python -m tpr_jax.visualize",
        description="Draws what a model retrieves, and what it computes inside.",
        examples=(
            "python -m tpr_jax.visualize grid --model runs/demo/model --out runs/grid",
            'python -m tpr_jax.visualize words --model clip-mini --out words --photos a.jpg --text "a bag"',
        ),
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name, what in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=what,
            description=f"Draws {what}.",
            examples=(f"python -m tpr_jax.visualize {name} --model runs/demo/model --out runs/{name}",),
        )
        add = command.add_argument
        add(
            "--model",
            type=path,
            required=True,
            help="a saved model (runs/demo/model), a CLIP folder, or a hub id",
        )
        add(
            "--out",
            type=path,
            required=True,
            metavar="DIR",
            help="output folder: new, empty, or written by this command before",
        )
        add(
            "--photos",
            type=path,
            nargs="+",
            metavar="PATH",
            help="your photos: folders, image files, or a .csv or .jsonl table of them",
        )
        add("--text", nargs="+", metavar="TEXT", help="your sentences, instead of a data set's captions")
        add(
            "--data_dir",
            type=path,
            metavar="DIR",
            help="a data set's folder; by default the bundled MiniPEDES",
        )
        add(
            "--dataset",
            metavar="NAME",
            help="the data set, such as rstp_reid; by default guessed from --data_dir",
        )
        add("--split", help="train, val or test (default)")
        add(
            "--image_size",
            type=int,
            nargs=2,
            metavar=("H", "W"),
            help="input size in pixels; by default that of the model",
        )
        if name == "grid":
            add(
                "--number",
                type=int,
                default=12,
                metavar="N",
                help="number of captions from the data set (default 12)",
            )
            add("--top_k", type=int, default=10, metavar="N", help="photos per sentence (default 10)")
        elif name == "map":
            add(
                "--identities",
                type=int,
                default=12,
                metavar="N",
                help="number of people from the data set (default 12)",
            )
            add("--seed", type=int, default=0, help="random seed of t-SNE")
        else:
            add("--number", type=int, default=3, metavar="N", help="number of photos to draw (default 3)")
    return top


def run(argv: list[str]) -> None:
    """Runs the command.

    Raises:
      UserError: an argument is invalid, or the command does not support the model.
    """
    args = parser().parse_args(argv[1:])
    for key in ("number", "top_k", "identities"):
        if getattr(args, key, 1) < 1:
            raise UserError(f"--{key} {getattr(args, key)}: must be at least 1")
    if getattr(args, "seed", 0) not in range(2**32):
        raise UserError(f"--seed {args.seed}: must lie between 0 and {2**32 - 1}")
    if args.image_size and min(args.image_size) < 1:
        raise UserError(f"--image_size {' '.join(map(str, args.image_size))}: must be above 0")
    # Imported after the arguments are checked, because they import JAX and matplotlib.
    from tpr_jax.visualize import folder

    folder.check_folder(args.out)
    examples = load_examples(args)
    import tpr_jax

    model = tpr_jax.from_pretrained(args.model, tuple(args.image_size) if args.image_size else None)
    title = f"{TITLES[args.command]}: {args.model} on {examples.label}"
    names = ("number", "top_k", "identities", "seed")
    settings = {name: getattr(args, name) for name in names if hasattr(args, name)}
    files = _module(args.command).make_files(model, examples, title=title, **settings)
    folder.write_files(args.out, args.command, files)
    count = sum(name.endswith(".png") for name in files)
    print(f"wrote {args.out}/{args.command}.html and {count} PNG file{'' if count == 1 else 's'}")


def load_examples(args: argparse.Namespace) -> "Examples":
    """Loads the photos and sentences that the arguments select.

    Raises:
      UserError: there are none, or the arguments contradict each other.
    """
    from dataclasses import replace

    from tpr_jax.visualize import inputs

    if not args.photos:
        examples = inputs.split_examples(args.dataset, args.data_dir, args.split or "test")
        if args.text:
            return replace(examples, texts=inputs.check_texts(args.text), text_pids=None, image_of_text=None)
        return examples
    for name in ("data_dir", "dataset", "split"):
        if getattr(args, name) is not None:
            raise UserError(f"--{name} and --photos: leave one of them out")
    if not args.text and args.command in NEED_TEXT:
        raise UserError(
            "--text is missing: your photos need a sentence, such as --text 'a woman in a red coat'"
        )
    return inputs.user_examples(args.photos, args.text or [])


def _module(command: str) -> ModuleType:
    from tpr_jax.visualize import experts, grid, map, prefix, words

    return {"grid": grid, "experts": experts, "prefix": prefix, "words": words, "map": map}[command]


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
