"""CLIP's transformer block with its slots."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from tpr_jax.models.attention import attend, join_heads, split_heads
from tpr_jax.models.layers import ACTIVATIONS, LayerNorm, normal, variable_in, zeros
from tpr_jax.models.matmul import dense
from tpr_jax.models.petl.prefix import mask_with_prefix, with_prefix
from tpr_jax.models.petl_config import ADAPTER_SLOTS, MIXTURES, Part
from tpr_jax.models.petl_modules import PrefixPart, apply_adapter, low_rank, low_rank_parts


class Dense(nn.Module):
    """`x @ kernel + bias`; its columns are equal pieces, one a slot, which low-rank parts may fill."""

    features: int
    std: float
    slots: tuple[tuple[str, Part | None], ...] = ()
    collection: str = "params"

    @nn.compact
    def __call__(self, x, firsts=()):
        """With `firsts`, arrays of tokens that alone go through the first piece: (their results, that of x
        through the other pieces)."""
        leaf = variable_in(self, self.collection)
        kernel = leaf("kernel", normal(self.std), (x.shape[-1], self.features))
        bias = leaf("bias", zeros, (self.features,))

        width = self.features // max(1, len(self.slots))
        parts = low_rank_parts(self.slots, x.shape[-1], width)

        def product(x, columns, parts):
            y = dense(x, kernel[:, columns])
            if any(part is not None for part in parts):
                y = low_rank(x, y, kernel[:, columns], parts)
            return y + bias[columns].astype(x.dtype)

        if not firsts:
            return product(x, slice(None), parts)
        own = [product(tokens, slice(width), parts[:1]) for tokens in firsts]
        return own, product(x, slice(width, None), parts[1:])


def token_at(x, index=None):
    """[b, l, d] -> [b, 1, d], of each row the token at `index` [b], or the first."""
    if index is None:
        return x[:, :1]
    rows = jax.lax.iota(index.dtype, x.shape[0])  # jnp.arange, but for batches of unknown size in ONNX too
    return x[rows, index][:, None]


class Attention(nn.Module):
    """Multi-head self-attention with q, k and v in one product, and prefix tokens among the keys.

    Every token x asks, or else those of `asking`, pairs of tokens [b, a, d] and their mask, [a, l] or
    [b, a, l]: then a list of results.
    """

    heads: int
    layers: int
    slots: Mapping[str, Part]
    collection: str = "params"

    @nn.compact
    def __call__(self, x, mask, asking: Sequence[tuple] = ()):
        d = x.shape[-1]
        named = [tuple((f"lora_{t}", self.slots.get(f"lora_{t}")) for t in ts) for ts in ("qkv", ("out",))]
        qkv = Dense(3 * d, d**-0.5, named[0], self.collection, name="qkv")
        out = Dense(d, (2 * self.layers * d) ** -0.5, named[1], self.collection, name="out")
        if asking:
            queries, kv = qkv(x, [tokens for tokens, _ in asking])
            pieces, masks = [*queries, *jnp.split(kv, 2, axis=-1)], [mask for _, mask in asking]
        else:
            pieces, masks = jnp.split(qkv(x), 3, axis=-1), [mask]
        *queries, k, v = (split_heads(piece, self.heads) for piece in pieces)
        if prefix := self.slots.get("prefix"):
            keys, values = PrefixPart(prefix, d, name="prefix")()
            k, v = with_prefix(keys, k), with_prefix(values, v)
            masks = [mask_with_prefix(mask, prefix.length) for mask in masks]
        masks = [mask[:, None] if mask is not None and mask.ndim == 3 else mask for mask in masks]
        found = [out(join_heads(attend(q, k, v, mask))) for q, mask in zip(queries, masks, strict=True)]
        return found if asking else found[0]


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
    """A pre-LN block of CLIP with parts in its slots; `petl_config.py` says where each slot is.

    `layers` is the number of blocks of the tower, which the initial values depend on. The `last` block gives
    one token a row, [b, 1, d], that at `index` [b] or the first: of the others it needs keys and values.
    """

    heads: int
    mlp_width: int
    layers: int
    act: str
    eps: float
    slots: Mapping[str, Part]
    collection: str = "params"
    last: bool = False

    @nn.compact
    def __call__(self, x, mask=None, index=None):
        norms = {name: LayerNorm(self.eps, self.collection, name=name) for name in ("ln_1", "ln_2")}
        attention = Attention(self.heads, self.layers, self.slots, self.collection, name="attn")
        mlp = Mlp(self.mlp_width, self.act, self.layers, self.slots, self.collection, name="mlp")
        part = {slot: apply_adapter(self.slots.get(slot), slot, self.eps) for slot in ADAPTER_SLOTS}

        def behind(x, z):
            """What follows the attention's result z."""
            h = x + z + part["after_attn"](z)
            z = mlp(norms["ln_2"](h) + part["beside_ln_2"](h))
            return h + z + part["after_mlp"](z) + part["beside_mlp"](h)

        u = norms["ln_1"](x) + part["beside_ln_1"](x)
        if not self.last:
            return behind(x, attention(u, mask))
        one = token_at(u, index), None if mask is None else mask[index][:, None]
        if any(isinstance(part, MIXTURES) for part in self.slots.values()):
            # Routers count all tokens. Of what is computed for the others the compiler keeps that alone.
            all_tokens, z = attention(u, mask, [(u, mask), one])
            behind(x, all_tokens)
        else:
            (z,) = attention(u, mask, [one])
        return behind(token_at(x, index), z)
