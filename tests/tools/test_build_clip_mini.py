"""Building clip-mini at a small size: vocabulary, training from scratch, the folder."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tools import build_clip_mini
from tpr_jax.errors import UserError
from tpr_jax.models import clip
from tpr_jax.models.methods import zero_shot
from tpr_jax.train import checkpoint, loop
from tpr_jax.weights import backbone
from tpr_jax.weights.clip import load_clip


def test_clip_mini_is_at_most_8_mb_in_float16():
    config = build_clip_mini.clip_config((192, 64), build_clip_mini.VOCAB_SIZE)
    shapes = clip.declare(config, zero_shot())
    # Position embeddings are stored for a square of the longer side: 12 x 12 patches instead of 12 x 4.
    extra = (12 * 12 - 12 * 4) * config.vision_width
    assert 7e6 < 2 * (sum(leaf.size for leaf in jax.tree.leaves(shapes)) + extra) < 8e6
    assert config.vision_width == 64 * config.vision_heads and config.text_width == 64 * config.text_heads


def test_vocabulary_has_the_captions_and_ascii_words(tiny):
    texts = build_clip_mini.vocabulary_texts(tiny["data"])
    entries = json.loads(Path(tiny["data"], "reid_raw.json").read_text())
    assert texts[0] == entries[0]["captions"][0] and len(texts) > 20_000
    assert {"umbrella", "backpack", "jacket"} <= set(texts)
    assert not {"123", "</w>", "é"} & set(texts)


def test_builds_a_folder_from_scratch(tiny, make_config, tmp_path, monkeypatch, capsys):
    small = {"vision_width": 64, "vision_layers": 1, "vision_heads": 1, "vision_mlp": 128, "patch_size": 8}
    small |= {"text_width": 64, "text_layers": 1, "text_heads": 1, "text_mlp": 128}
    full_size = build_clip_mini.clip_config
    monkeypatch.setattr(build_clip_mini, "clip_config", lambda *a: replace(full_size(*a), **small))
    monkeypatch.setattr(build_clip_mini, "VOCAB_SIZE", 540)
    monkeypatch.setattr(build_clip_mini, "vocabulary_texts", lambda _: ["a red coat", "a blue coat"] * 3)
    folder = tmp_path / "clip"
    build_clip_mini.run(["build_clip_mini", "new", "--data_dir", tiny["data"], "--out", str(folder)])
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "tokenizer.json"]
    with pytest.raises(UserError, match="holds a CLIP already: choose another folder"):
        build_clip_mini.new(tiny["data"], folder)

    config = make_config(backbone=folder, from_scratch=True, total_steps=2, eval_every=0, mask_text=False)
    config.image_size = (48, 16)  # 6 x 2 patches: the ratio of clip-mini, which the folder's format keeps
    config.method = {"name": "full_finetune"}
    config.losses.update({"sdm": 0.0, "itc": 1.0, "balance": 0.0})
    workdir = tmp_path / "run"
    with pytest.raises(UserError, match=r"holds no run: train with configs/pretrain_mini\.py first"):
        build_clip_mini.save(workdir, folder)
    results = loop.train(config, workdir)
    assert results["trainable_params"] == results["total_params"]
    capsys.readouterr()
    build_clip_mini.run(["build_clip_mini", "save", "--workdir", str(workdir), "--out", str(folder)])
    assert str(folder) in capsys.readouterr().out

    manager = checkpoint.open_manager(workdir / "checkpoints" / "best", keep=1)
    args = ocp.args.Composite(state=ocp.args.StandardRestore())
    trained = manager.restore(2, args=args)["state"]["trainable"]["params"]
    sizes, params = load_clip(folder)
    assert sizes.image_size == (48, 16) and sizes.context_length == 64
    assert jax.tree.structure(params) == jax.tree.structure(trained)
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(trained), strict=True):
        np.testing.assert_allclose(ours, np.asarray(theirs), rtol=2e-3, atol=1e-4)  # through float16
    _, _, tokenizer = backbone.load(str(folder), (48, 16))
    assert tokenizer(["a red coat"]).shape == (1, 64)
    # A folder without a vocabulary gets clip-mini's.
    build_clip_mini.save(workdir, tmp_path / "other")
    vocabularies = [Path(place, "tokenizer.json") for place in (tmp_path / "other", backbone.clip_mini_dir())]
    assert vocabularies[0].read_bytes() == vocabularies[1].read_bytes()
