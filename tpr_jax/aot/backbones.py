"""Counts the parameters that each method trains on each backbone, without weights.

    python -m tpr_jax.aot.backbones [--write]

Prints a table for the recipes of configs/ on CUHK-PEDES. With --write it replaces the text between the
markers in docs/backbones.md.
"""

import sys
from dataclasses import replace
from pathlib import Path

import jax

from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.cli.parser import Parser
from tpr_jax.config import defaults
from tpr_jax.config.flags import parse_flags
from tpr_jax.models import clip
from tpr_jax.models.config import NAMED, ClipConfig
from tpr_jax.models.methods import Method
from tpr_jax.optim import split_model
from tpr_jax.utils import markdown
from tpr_jax.utils.files import write_text

METHODS = (
    *("dm_adapter", "up_person", "cskt", "parallel_adapter", "sequential_adapter", "lora", "lora_moe"),
    *("prefix", "prompts", "layer_norm", "bitfit", "linear_probe", "full_finetune"),
)
# Columns of the table -> names of `NAMED`.
NAMES = {name: name for name in ("ViT-B/32", "ViT-B/16", "ViT-L/14")} | {
    "ViT-H/14": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "SigLIP-base/16": "google/siglip-base-patch16-224",
    "SigLIP 2 So400m/14": "google/siglip2-so400m-patch14-384",
}
# At the image size of person retrieval.
BACKBONES = {column: replace(NAMED[name], image_size=(384, 128)) for column, name in NAMES.items()}
PAGE, MARKER = Path("docs/backbones.md"), "trained parameters"


def trained_parameters(config: ClipConfig, method: Method) -> int:
    """Returns the number of parameters that a method trains on towers of these sizes."""
    shapes = clip.declare(config, method)
    trainable, _ = split_model(shapes, method)
    return sum(leaf.size for leaf in jax.tree.leaves(trainable))


def recipe_method(name: str) -> Method:
    """Returns the method of `configs/NAME.py` with the settings of its recipe for CUHK-PEDES."""
    config, *_ = parse_flags(["main", "--config", f"configs/{name}.py:cuhk_pedes", "--workdir", "w"])
    return defaults.make_method(config)


def table(methods: tuple[str, ...] = METHODS) -> str:
    """Returns the Markdown table, one row for each method and one column for each backbone."""
    rows = []
    for name in methods:
        method = recipe_method(name)
        counts = [trained_parameters(sizes, method) for sizes in BACKBONES.values()]
        rows.append([f"`{name}`", *(f"{count:,}" for count in counts)])
    return markdown.table(["method", *BACKBONES], rows)


def run(argv: list[str]) -> None:
    """Runs the command."""
    parser = Parser(
        prog="python -m tpr_jax.aot.backbones",
        description="Counts the parameters that each method trains on each backbone, without weights.",
        examples=("python -m tpr_jax.aot.backbones",),
    )
    parser.add_argument("--write", action="store_true", help=f"update {PAGE}")
    args = parser.parse_args(argv[1:])
    text = table()
    print(text)
    if args.write:
        write_text(PAGE, markdown.replace_section(PAGE.read_text(), MARKER, text))


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
