"""Counts the parameters that each method trains on each backbone, without weights.

    python -m tpr_jax.aot.backbones [--write]

Prints a table for the recipes of configs/ on CUHK-PEDES. With --write it replaces the text between the
markers in docs/backbones.md.
"""

import argparse
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
SIGLIP = "SigLIP-base/16"
# At the image size of person retrieval. A SigLIP's towers have the blocks of a CLIP of its widths.
BACKBONES = {
    name: replace(NAMED[name], image_size=(384, 128)) for name in ("ViT-B/32", "ViT-B/16", "ViT-L/14")
}
BACKBONES |= {
    "ViT-H/14": ClipConfig(
        patch_size=14,
        vision_width=1280,
        vision_layers=32,
        vision_heads=16,
        vision_mlp=5120,
        text_width=1024,
        text_layers=24,
        text_heads=16,
        text_mlp=4096,
        embed_dim=1024,
        act="gelu",
    ),
    SIGLIP: ClipConfig(
        text_width=768, text_heads=12, text_mlp=3072, context_length=64, vocab_size=32000, embed_dim=768
    ),
}
PAGE, MARKER = Path("docs/backbones.md"), "trained parameters"


def trained_parameters(config: ClipConfig, method: Method) -> int:
    """Returns the number of parameters that a method trains on a CLIP of these sizes."""
    shapes = jax.eval_shape(clip.build(config, method)["init"], jax.random.key(0))
    trainable, _ = split_model(shapes, method)
    return sum(leaf.size for leaf in jax.tree.leaves(trainable))


def recipe_method(name: str) -> Method:
    """Returns the method of `configs/NAME.py` with the settings of its recipe for CUHK-PEDES."""
    config, *_ = parse_flags(["main", "--config", f"configs/{name}.py:cuhk_pedes", "--workdir", "w"])
    return defaults.make_method(config)


def count(backbone: str, method: Method) -> int | None:
    """Returns the number of trained parameters; None if a method tunes weights that a SigLIP has not."""
    return None if backbone == SIGLIP and method.tuned else trained_parameters(BACKBONES[backbone], method)


def table(methods: tuple[str, ...] = METHODS) -> str:
    """Returns the Markdown table, one row for each method and one column for each backbone."""
    rows = []
    for name in methods:
        method = recipe_method(name)
        counts = [count(backbone, method) for backbone in BACKBONES]
        rows.append([f"`{name}`", *("" if number is None else f"{number:,}" for number in counts)])
    return markdown.table(["method", *BACKBONES], rows)


def run(argv: list[str]) -> None:
    """Runs the command."""
    parser = Parser(
        prog="python -m tpr_jax.aot.backbones",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", action="store_true", help=f"update {PAGE}")
    args = parser.parse_args(argv[1:])
    text = table()
    print(text)
    if args.write:
        write_text(PAGE, markdown.replace_section(PAGE.read_text(), MARKER, text))


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
