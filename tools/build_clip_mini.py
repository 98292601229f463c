"""Makes clip-mini, the small bundled CLIP: its vocabulary and sizes before pre-training, its folder after.

    python -m tools.build_clip_mini new  --data_dir data/pretrain --out data/clip_mini
    python -m tools.build_clip_mini save --workdir runs/pretrain_mini --out data/clip_mini

`configs/pretrain_mini.py` tells the whole way.
"""

import argparse
import gzip
import json
import sys
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from tools.train_tokenizer import train_tokenizer
from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.cli.parser import folder, path
from tpr_jax.data.mini_pedes import bundled_dir
from tpr_jax.data.records import caption_pairs, load_records
from tpr_jax.data.tokenizer import MERGES
from tpr_jax.errors import UserError
from tpr_jax.models.config import ClipConfig
from tpr_jax.utils.files import write_json
from tpr_jax.weights.clip import save_clip
from tpr_jax.weights.hugging_face import write_config

# 512 bytes, 2,000 merges, three special tokens.
VOCAB_SIZE = 2515


def sizes(image_size: tuple[int, int], vocab_size: int) -> ClipConfig:
    """clip-mini: heads 64 wide as in every CLIP; a text MLP just narrow enough for 8 MB in float16."""
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
    """The training captions there and of MiniPEDES, and each plain word of CLIP's vocabulary once.

    MiniPEDES lends its words, as CLIP's vocabulary has those of clothes, and nothing else: no weight of
    clip-mini is trained on it. Captions alone have a few hundred words; with CLIP's, a query in free words is
    not spelled by letters.
    """
    _, captions, _ = caption_pairs(load_records(data_dir, "train"))
    captions += caption_pairs(load_records(bundled_dir(), "train"))[1]
    lines = gzip.decompress(MERGES.read_bytes()).decode("utf-8").splitlines()
    words = ["".join(line.split(" ")) for line in lines]
    whole = [w.removesuffix("</w>") for w in words if w.endswith("</w>")]
    return [*captions, *(w for w in whole if w.isascii() and w.isalpha() and len(w) > 2)]


def new(data_dir: str, out: Path) -> None:
    """Writes config.json and tokenizer.json: all that training from nothing reads."""
    out.mkdir(parents=True, exist_ok=True)
    if (out / "config.json").exists():
        raise UserError(f"--out {out} holds a CLIP already: choose another folder")
    size = train_tokenizer(vocabulary_texts(data_dir), VOCAB_SIZE, out / "tokenizer.json")
    write_json(out / "config.json", write_config(sizes((192, 64), size)))
    print(f"written: {out}/config.json and tokenizer.json, {size} tokens")


def save(workdir: Path, out: Path) -> None:
    """Adds to the folder the weights of a run of `configs/pretrain_mini.py`, in float16."""
    from tpr_jax.train import results  # imports JAX and TensorFlow

    if not (workdir / "config.json").is_file():
        raise UserError(f"--workdir {workdir} holds no run: train with configs/pretrain_mini.py first")
    config = ConfigDict(json.loads((workdir / "config.json").read_text()))
    parts = results.prepare(config)
    state, found = results.restore_best(config, workdir, parts)
    if found["checkpoint"] is None:
        raise UserError(f"--workdir {workdir} has no checkpoint: train with configs/pretrain_mini.py first")
    params = jax.tree.map(np.asarray, state["trainable"]["params"])
    save_clip(out, parts["clip_config"], params, tokenizer_json=out / "tokenizer.json", dtype="float16")
    print(f"written: {out}")


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
    explain_and_exit(main, sys.argv)
