"""Builds clip-mini and clip-street, the small bundled CLIPs.

    python -m tools.build_clip_mini new  --data_dir data/pretrain --out data/clip_mini
    python -m tools.build_clip_mini save --workdir runs/pretrain_mini --out data/clip_mini

`new` writes the vocabulary and sizes before pre-training, `save` the weights afterward. See
`configs/pretrain_mini.py` and `configs/pretrain_street.py` for all steps.
"""

import gzip
import json
import sys
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from tools.train_tokenizer import train_tokenizer
from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.cli.parser import Parser, folder, path
from tpr_jax.data.mini_pedes import bundled_dir
from tpr_jax.data.records import caption_pairs, load_records
from tpr_jax.data.tokenizer import MERGES
from tpr_jax.errors import UserError
from tpr_jax.models.config import ClipConfig
from tpr_jax.utils.files import write_json
from tpr_jax.weights.backbone import clip_mini_dir
from tpr_jax.weights.clip import save_clip
from tpr_jax.weights.hugging_face import write_config

VOCAB_SIZE = 2515  # 512 bytes, 2,000 merges, three special tokens


def clip_config(image_size: tuple[int, int], vocab_size: int) -> ClipConfig:
    """Returns clip-mini's config: heads 64 wide as in every CLIP, and at most 8 MB in float16."""
    return ClipConfig(
        image_size=image_size,
        patch_size=16,
        vision_width=192,
        vision_layers=6,
        vision_heads=3,
        vision_mlp=768,
        text_width=128,
        text_layers=4,
        text_heads=2,
        text_mlp=448,
        context_length=64,
        vocab_size=vocab_size,
        embed_dim=128,
        eot_id=vocab_size - 1,
    )


def vocabulary_texts(data_dir: str) -> list[str]:
    """Returns the training captions there and of MiniPEDES, and each ASCII word of CLIP's vocabulary once.

    MiniPEDES contributes only its words: no weight of clip-mini is trained on it. Captions alone have a few
    hundred words; with CLIP's words, free text is not split into single letters.
    """
    _, captions, _ = caption_pairs(load_records(data_dir, "train"))
    captions += caption_pairs(load_records(bundled_dir(), "train"))[1]
    lines = gzip.decompress(MERGES.read_bytes()).decode("utf-8").splitlines()
    words = ["".join(line.split(" ")) for line in lines]
    complete = [word.removesuffix("</w>") for word in words if word.endswith("</w>")]
    return [*captions, *(word for word in complete if word.isascii() and word.isalpha() and len(word) > 2)]


def new(data_dir: str, out: Path) -> None:
    """Writes config.json and tokenizer.json, which training from scratch reads.

    Raises:
      UserError: `out` already holds a CLIP.
    """
    out.mkdir(parents=True, exist_ok=True)
    if (out / "config.json").exists():
        raise UserError(f"--out {out} holds a CLIP already: choose another folder")
    size = train_tokenizer(vocabulary_texts(data_dir), VOCAB_SIZE, out / "tokenizer.json")
    write_json(out / "config.json", write_config(clip_config((192, 64), size)))
    print(f"written: {out}/config.json and tokenizer.json, {size} tokens")


def save(workdir: Path, out: Path) -> None:
    """Adds the weights of a run to the folder, in float16, and clip-mini's vocabulary if it has none.

    Raises:
      UserError: the workdir has no run, or no checkpoint.
    """
    from tpr_jax.train import eval_run, setup  # imports JAX and TensorFlow

    if not (workdir / "config.json").is_file():
        raise UserError(f"--workdir {workdir} holds no run: train with configs/pretrain_mini.py first")
    config = ConfigDict(json.loads((workdir / "config.json").read_text()))
    run = setup.prepare(config)
    state, source = eval_run.restore_best(run, workdir)
    if source["checkpoint"] is None:
        raise UserError(f"--workdir {workdir} has no checkpoint: train with configs/pretrain_mini.py first")
    params = jax.tree.map(np.asarray, state.trainable["params"])
    own = out / "tokenizer.json"
    tokenizer = own if own.is_file() else Path(clip_mini_dir(), "tokenizer.json")
    save_clip(out, run.clip_config, params, tokenizer_json=tokenizer, dtype="float16")
    print(f"written: {out}")


def run(argv: list[str]) -> None:
    """Runs the command."""
    parser = Parser(
        prog="python -m tools.build_clip_mini",
        description=__doc__,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, source in (("new", "--data_dir"), ("save", "--workdir")):
        command = commands.add_parser(name)
        command.add_argument(source, type=path, required=True)
        command.add_argument("--out", type=folder, required=True)
    args = parser.parse_args(argv[1:])
    if args.command == "new":
        new(args.data_dir, args.out)
    else:
        save(Path(args.workdir), args.out)


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
