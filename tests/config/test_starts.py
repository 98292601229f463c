"""Every config and every row of the ablations is valid, all of its trained leaves get a gradient, and it
starts as CLIP itself if its parts start at zero.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny_clip as tiny
from tests.config_files import ABLATIONS, NAMES, heads_of, parsed, rows_of, split
from tests.tiny_clip import quick_compilation  # noqa: F401 (a fixture for the whole module)
from tpr_jax.config import defaults as config_lib
from tpr_jax.models import clip
from tpr_jax.models.clip import declare
from tpr_jax.models.config import ClipConfig
from tpr_jax.models.methods import zero_shot
from tpr_jax.models.petl_config import Adapter, Prefix
from tpr_jax.train import step
from tpr_jax.utils.trees import flatten

# Enough tokens for every prefix, widths at which no adapter is dead, and as few blocks as possible, because
# compilation takes all of the time.
SMALL = ClipConfig(
    image_size=(12, 8),
    patch_size=4,
    vision_width=64,
    vision_layers=1,
    vision_heads=2,
    vision_mlp=24,
    text_width=64,
    text_layers=1,
    text_heads=2,
    text_mlp=16,
    context_length=14,
    vocab_size=13,
    embed_dim=6,
)


def sizes_for(name: str, row: str) -> ClipConfig:
    """The mixture's ranges meet at block 3; prompts are exchanged, and depths end, after the first block."""
    blocks = 4 if name == "mixture" else 2 if name in ("cskt", "prompts") or "depth" in row else 1
    return dataclasses.replace(SMALL, vision_layers=blocks, text_layers=min(blocks, 2))


RUNS = [(name, "") for name in NAMES if name not in (*ABLATIONS, "zero_shot")]
RUNS += [(name, row) for name in ABLATIONS for row in rows_of(name, "mini_pedes")]
# Depths beyond the second block are left to `test_depths_...`: they train the same leaves in more blocks.
# Other numbers of experts give the same program with other sizes.
LEFT_OUT = re.compile(r"depth_(lora|prefix)_[3-9]|depth_adapter_[2-9]|experts_[4-9]|top_[3-5]")
RUNS = [run for run in RUNS if not LEFT_OUT.fullmatch(run[1])]
each = pytest.mark.parametrize(("name", "row"), RUNS, ids=["-".join(run).strip("-") for run in RUNS])


@functools.cache
def params(sizes: ClipConfig) -> dict:
    """Returns random weights of CLIP, in which every parameter matters; the same for all tests."""
    return jax.tree.map(jnp.asarray, tiny.random_like(declare(sizes, zero_shot())["params"], seed=0))


@functools.cache
def batch() -> dict:
    found = tiny.batch(6, config=SMALL)
    masked = found["ids"].copy()
    masked[:, 1] = SMALL.vocab_size - 2
    labels = np.where(found["ids"] != masked, found["ids"], 0)
    assert labels.any()
    found |= {"image": np.asarray(clip.normalize(found["image"])), "mlm_ids": masked, "mlm_labels": labels}
    return found


def compiled(model: dict, weights: dict):
    """Compiles one step: (trained, frozen) -> (gradient, features of both towers)."""

    def loss(trainable, frozen, batch):
        seen = {}

        def keep(name):
            def encode(variables, rows, **settings):
                feats, routing = model[name](variables, rows, **settings)
                seen[name] = feats[:, 0] if feats.ndim == 3 else feats
                return feats, routing

            return encode

        watched = {**model, **{name: keep(name) for name in ("encode_image", "encode_text")}}
        total, _ = step.objective(watched, weights, 20.0, trainable, frozen, batch)
        return total, (seen["encode_image"], seen["encode_text"])

    both = jax.jit(jax.grad(loss, has_aux=True))
    return lambda trainable, frozen: both(trainable, frozen, batch())


@functools.cache
def clips_features(sizes: ClipConfig) -> tuple:
    run = compiled(clip.build(sizes, zero_shot()), {"sdm": 1.0})
    return jax.device_get(run({}, {"params": params(sizes)})[1])


def starts_as_clip(method) -> bool:
    """Returns whether a method's initial features equal CLIP's; extra tokens and CSKT change them."""
    parts = (*method.vision, *method.text)
    drawn = any(isinstance(part, Adapter) and part.init == "normal" for part in parts)
    return not (method.prompts or drawn or any(isinstance(part, Prefix) for part in parts))


@each
def test_every_trained_leaf_gets_a_gradient_and_zero_starts_are_clip(name, row):
    config = parsed(name, row)
    sizes = sizes_for(name, row)
    method = config_lib.make_method(config)
    model = clip.build(sizes, method, heads=heads_of(config))
    # CLIP's own weights are not initialized, which would dominate compilation.
    drawn = jax.jit(lambda key: {k: v for k, v in model["init"](key).items() if k != "params"})
    drawn = drawn(jax.random.key(0, impl="unsafe_rbg"))
    trainable, frozen = split({**drawn, "params": params(sizes)}, config)
    assert flatten(trainable)
    run = compiled(model, config_lib.loss_weights(config))
    first, features = jax.device_get(run(trainable, frozen))
    # Equal to the last bit, except with masked words: they read all tokens of an image, and the last block's
    # products for all tokens round differently from those for a single one.
    near = 1e-6 if config.losses.mlm else 0.0
    pairs = zip(features, clips_features(sizes), strict=True)
    same = [bool(np.abs(found - own).max() <= near * np.abs(own).max()) for found, own in pairs]
    assert same == [starts_as_clip(method)] * 2
    # Factors of a zero (LoRA's A, Down, learned scales) get a gradient only in the second step. The step is
    # small, because a token might otherwise be routed to experts that have not moved yet.
    moved = jax.tree.map(lambda x, g: np.asarray(x) - 1e-3 * g / (np.abs(g).max() + 1e-12), trainable, first)
    second, _ = jax.device_get(run(moved, frozen))
    largest = jax.tree.map(lambda *gs: max(float(np.abs(g).max()) for g in gs), first, second)
    assert {path: size for path, size in flatten(largest).items() if not 1e-9 < size < np.inf} == {}


@pytest.mark.parametrize(
    "row", [row for row in rows_of("ablation_up_person", "mini_pedes") if "depth" in row]
)
def test_depths_are_blocks_with_that_part(row):
    """The module is in the first N blocks (adapters: from block N on), the others in all four."""
    sizes = dataclasses.replace(SMALL, vision_layers=4, text_layers=4)
    _, part, depth = row.split("_")
    tree = declare(sizes, config_lib.make_method(parsed("ablation_up_person", row)))
    for collection in ("adapter", "lora", "prefix"):
        first, end = (int(depth), 4) if part == "adapter" else (0, int(depth))
        expected = range(first, end) if collection == part else range(4)
        for tower in ("visual", "text"):
            assert set(tree[collection][tower]) == {f"block_{i}" for i in expected}
