"""CLIP's transformer block with its slots."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp

from tpr_jax.models.attach import PrefixPart, attached, low_rank
from tpr_jax.models.layers import (
    ACTIVATIONS,
    LayerNorm,
    attend,
    join_heads,
    leaf_of,
    normal,
    split_heads,
    zeros,
)
from tpr_jax.models.parts import Part
from tpr_jax.models.petl.prefix import mask_with_prefix, with_prefix
from tpr_jax.models.products import dense


class Dense(nn.Module):
    """`x @ kernel + bias`; its columns are equal pieces, one a slot, which low-rank parts may fill."""

    features: int
    std: float
    slots: tuple[tuple[str, Part | None], ...] = ()
    collection: str = "params"

    @nn.compact
    def __call__(self, x):
        leaf = leaf_of(self, self.collection)
        kernel = leaf("kernel", normal(self.std), (x.shape[-1], self.features))
        bias = leaf("bias", zeros, (self.features,))
        y = dense(x, kernel)
        if any(part is not None for _, part in self.slots):
            y = low_rank(x, y, kernel, self.slots)
        return y + bias.astype(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention with q, k and v in one product, and prefix tokens among the keys."""

    heads: int
    layers: int
    slots: Mapping[str, Part]
    collection: str = "params"

    @nn.compact
    def __call__(self, x, mask):
        d = x.shape[-1]
        named = [tuple((f"lora_{t}", self.slots.get(f"lora_{t}")) for t in ts) for ts in ("qkv", ("out",))]
        qkv = Dense(3 * d, d**-0.5, named[0], self.collection, name="qkv")(x)
        q, k, v = (split_heads(part, self.heads) for part in jnp.split(qkv, 3, axis=-1))
        if prefix := self.slots.get("prefix"):
            keys, values = PrefixPart(prefix, d, name="prefix")()
            k, v = with_prefix(keys, k), with_prefix(values, v)
            mask = mask_with_prefix(mask, prefix.length)
        y = join_heads(attend(q, k, v, mask))
        return Dense(d, (2 * self.layers * d) ** -0.5, named[1], self.collection, name="out")(y)


class Mlp(nn.Module):
    """CLIP's two-layer perceptron."""

    width: int
    act: str
    layers: int
    slots: Mapping[str, Part]
    collection: str = "params"

    @nn.compact
    def __call__(self, x):
        d = x.shape[-1]
        fc, proj = ((("lora_" + name, self.slots.get("lora_" + name)),) for name in ("fc", "proj"))
        hidden = Dense(self.width, (2 * d) ** -0.5, fc, self.collection, name="fc")(x)
        hidden = ACTIVATIONS[self.act](hidden)
        return Dense(d, (2 * self.layers * d) ** -0.5, proj, self.collection, name="proj")(hidden)


class Block(nn.Module):
    """A pre-LN block of CLIP with parts in its slots; `parts.py` says where each slot is.

    `layers` is the number of blocks of the tower, which the initial values depend on.
    """

    heads: int
    mlp_width: int
    layers: int
    act: str
    eps: float
    slots: Mapping[str, Part]
    collection: str = "params"

    @nn.compact
    def __call__(self, x, mask=None):
        def part(slot, z):
            return attached(self.slots.get(slot), slot, z, self.eps)

        u = LayerNorm(self.eps, self.collection, name="ln_1")(x) + part("beside_ln_1", x)
        z = Attention(self.heads, self.layers, self.slots, self.collection, name="attn")(u, mask)
        h = x + z + part("after_attn", z)
        u = LayerNorm(self.eps, self.collection, name="ln_2")(h) + part("beside_ln_2", h)
        mlp = Mlp(self.mlp_width, self.act, self.layers, self.slots, self.collection, name="mlp")
        z = mlp(u)
        return h + z + part("after_mlp", z) + part("beside_mlp", h)
