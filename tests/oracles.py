"""CLIP's layers and the modules of methods in plain NumPy, float64."""

import math

import jax
import numpy as np

EPS = 1e-5


def float64(tree):
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)


def layer_norm(x, scale, bias, eps=EPS):
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + eps) * scale + bias


def softmax(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def attend(q, k, v, mask, gate=None):
    """Computes attention row by row: each query's softmax over the keys that the mask allows.

    `gate` multiplies the columns of the softmax without renormalizing, as in the paper of S-Prefix.
    """
    out = np.zeros_like(q)
    for b, h, i in np.ndindex(*q.shape[:3]):
        scores = np.array([q[b, h, i] @ key / math.sqrt(q.shape[-1]) for key in k[b, h]]) + mask[i]
        weights = softmax(scores) * (1 if gate is None else gate)
        out[b, h, i] = weights @ v[b, h]
    return out


def causal(length):
    return np.triu(np.full((length, length), -np.inf), 1)


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def quick_gelu(x):
    return x / (1 + np.exp(-1.702 * x))


def adapter(u, leaves):
    """`Up(ReLU(Down(u)))`."""
    hidden = np.maximum(u @ leaves["down"]["kernel"] + leaves["down"]["bias"], 0)
    return hidden @ leaves["up"]["kernel"] + leaves["up"]["bias"]


def router(u, leaves, kind):
    """Computes the logits of the experts."""
    logits = u @ leaves["w_in"]
    if kind == "input":
        return logits
    by_domain = leaves["prompt"] @ leaves["w_task"]
    if kind == "sum":
        return logits + by_domain
    return (1 - leaves["alpha"]) * logits + leaves["alpha"] * by_domain


def top(logits, k):
    """Returns (expert, weight) of one token's k best experts, weighted by a softmax over these k."""
    best = np.argsort(-logits)[:k]
    return list(zip(best, softmax(logits[best]), strict=True))


def heads_of(x, heads):
    b, l, d = x.shape
    return x.reshape(b, l, heads, d // heads).transpose(0, 2, 1, 3)


def attention(p, u, mask, heads):
    """Computes multi-head self-attention from a block's `attn`."""
    qkv = u @ p["qkv"]["kernel"] + p["qkv"]["bias"]
    q, k, v = (heads_of(part, heads) for part in np.split(qkv, 3, -1))
    seen = attend(q, k, v, mask).transpose(0, 2, 1, 3).reshape(u.shape)
    return seen @ p["out"]["kernel"] + p["out"]["bias"]


def mlp(p, u, act=quick_gelu):
    hidden = act(u @ p["fc"]["kernel"] + p["fc"]["bias"])
    return hidden @ p["proj"]["kernel"] + p["proj"]["bias"]


def block(p, x, mask, heads, act=quick_gelu):
    """Returns `h + MLP(LN2(h))` and `h = x + MHA(LN1(x))`, from a block's parameters."""
    h = x + attention(p["attn"], layer_norm(x, **p["ln_1"]), mask, heads)
    return h + mlp(p["mlp"], layer_norm(h, **p["ln_2"]), act), h
