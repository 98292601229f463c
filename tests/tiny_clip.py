"""A CLIP small enough for every test; all sizes differ, so that none can be mistaken for another."""

import jax
import numpy as np
import pytest

from tpr_jax.models.config import ClipConfig

CONFIG = ClipConfig(
    image_size=(12, 8),
    patch_size=4,
    vision_width=16,
    vision_layers=1,
    vision_heads=4,
    vision_mlp=24,
    text_width=8,
    text_layers=2,
    text_heads=2,
    text_mlp=20,
    context_length=7,
    vocab_size=13,
    embed_dim=5,
)
DM_SETTINGS = {"num_experts": 3, "top_k": 2, "reduction": 4}
# Settings that make a method fit; the others fit with their defaults.
SETTINGS = {
    "up_person": {"rank": 3, "prefix": 2},
    "cskt": {"prompts": 1},
    "lora": {"rank": 3},
    "prefix": {"length": 2},
    "prompts": {"length": 2},
    "lora_moe": {"rank": 2},
    "mixture": {"both": {"fine": {"part": "lora", "rank": 2}}, "tuned": ("text/proj",)},
}


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Turns optimizations off in modules that import it: for programs this small, compilation dominates."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def random_like(shapes, seed: int, scale: float = 0.3):
    """Returns a tree of normal float32 numbers with these shapes; LayerNorm scales are around 1."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        center = 1.0 if path[-1].key == "scale" else 0.0
        return (center + scale * rng.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def batch(size: int, seed: int = 0, config: ClipConfig = CONFIG) -> dict:
    """Returns pixels, ids (0, then words, the highest id once, then zeros) and pids with repetitions."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((size, config.context_length), np.int32)
    for row in ids:
        end = rng.integers(2, config.context_length)
        row[1:end] = rng.integers(1, config.vocab_size - 1, end - 1)
        row[end] = config.vocab_size - 1
    return {
        "image": rng.integers(0, 256, (size, *config.image_size, 3), np.uint8),
        "ids": ids,
        "pid": (np.arange(size) * 2 // 3).astype(np.int32),
    }
