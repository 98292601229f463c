"""A SigLIP small enough for every test, and its towers in plain NumPy."""

import math

import numpy as np

from tests import tiny_clip
from tpr_jax.models.config import ClipConfig

CONFIG = ClipConfig(
    family="siglip",
    image_size=(12, 8),
    patch_size=4,
    vision_width=16,
    vision_layers=2,
    vision_heads=4,
    vision_mlp=24,
    text_width=8,
    text_layers=2,
    text_heads=2,
    text_mlp=20,
    context_length=7,
    vocab_size=13,
    embed_dim=16,
    act="gelu_tanh",
    layer_norm_eps=1e-6,
    logit_bias=-3.0,
    image_mean=(0.5, 0.5, 0.5),
    image_std=(0.5, 0.5, 0.5),
)


def batch(size: int, seed: int = 0) -> dict:
    """Returns pixels, ids of the full length (words, 12 once, then 0) and pids with repetitions."""
    rows = tiny_clip.batch(size, seed, CONFIG)
    rows["ids"][:, 0] = 3  # there is no start of text
    return rows


def norm(x, p):
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def linear(x, p):
    return x @ p["kernel"] + p["bias"]


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def mlp(x, p):
    return linear(gelu(linear(x, p["fc"])), p["proj"])


def attend(queries, x, p, heads):
    """Computes multi-head attention of [m, d] to [n, d] by loops over heads."""
    d = x.shape[1]
    q, k, v = (
        rows @ p["qkv"]["kernel"][:, i * d : (i + 1) * d] + p["qkv"]["bias"][i * d : (i + 1) * d]
        for i, rows in enumerate((queries, x, x))
    )
    out, c = np.zeros_like(q), d // heads
    for h in range(heads):
        columns = slice(h * c, (h + 1) * c)
        scores = q[:, columns] @ k[:, columns].T / math.sqrt(c)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        out[:, columns] = weights / weights.sum(1, keepdims=True) @ v[:, columns]
    return linear(out, p["out"])


def block(x, p, heads):
    u = norm(x, p["ln_1"])
    x = x + attend(u, u, p["attn"], heads)
    return x + mlp(norm(x, p["ln_2"]), p["mlp"])


def pool(x, p, heads):
    """Computes the feature that SigLIP pools from tokens [n, d]."""
    z = attend(p["probe"][0], x, p["attn"], heads)
    return (z + mlp(norm(z, p["ln_2"]), p["mlp"]))[0]


def vision_tokens(image, p, prompts=()):
    """Returns all tokens [n, d] of normalized pixels [h, w, 3]; `prompts` has [p, d] for each first block."""
    c = CONFIG
    patches = [
        image[y : y + 4, x : x + 4].ravel() for y in range(0, c.image_size[0], 4) for x in range(0, 8, 4)
    ]
    x = np.stack(patches) @ p["conv1"]["kernel"].reshape(48, -1) + p["conv1"]["bias"]
    return blocks(x + p["positional_embedding"], p, c.vision_layers, c.vision_heads, prompts)


def text_tokens(ids, p, prompts=()):
    """Returns all tokens [l, d] of ids [l]."""
    c = CONFIG
    x = p["token_embedding"][ids] + p["positional_embedding"]
    return blocks(x, p, c.text_layers, c.text_heads, prompts)


def blocks(x, p, layers, heads, prompts):
    length = len(x)
    for i in range(layers):
        if i < len(prompts):
            x = np.concatenate([x[:length], prompts[i]])
        x = block(x, p[f"block_{i}"], heads)
    return x[:length]


def image_feature(image, p, prompts=()):
    """Computes the feature of an image from the parameters of the vision tower."""
    return pool(norm(vision_tokens(image, p, prompts), p["ln_post"]), p["pool"], CONFIG.vision_heads)


def text_feature(ids, p, prompts=()):
    """Computes the feature of a text from the parameters of the text tower."""
    return linear(norm(text_tokens(ids, p, prompts)[-1], p["ln_final"]), p["proj"])
