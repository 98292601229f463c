"""CLIP's transformer block with slots for PEFT parts."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tpr_jax.models.attention import attend, join_heads, self_attention, split_heads
from tpr_jax.models.layers import ACTIVATIONS, LayerNorm, normal, variable_in, zeros
from tpr_jax.models.matmul import dense, save_product, sum_dtype
from tpr_jax.models.petl.prefix import mask_with_prefix, with_prefix
from tpr_jax.models.petl_config import ADAPTER_SLOTS, Part, Prefix
from tpr_jax.models.petl_modules import PrefixPart, adapter_module, apply_updates, dense_updates


class Dense(nn.Module):
    """Computes `x @ kernel + bias`, where parts may update the kernel's equal column blocks.

    Attributes:
      features: the number of columns.
      std: the standard deviation of the initial kernel.
      slots: for each column block the name of its slot and the part in it, or None.
      collection: the collection of kernel and bias.
    """

    features: int
    std: float
    slots: tuple[tuple[str, Part | None], ...] = ()
    collection: str = "params"

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"], q_inputs: Sequence[Float[Array, "_ _ d"]] = ()):
        """Applies the layer.

        Args:
          x: the input.
          q_inputs: if given, the first column block applies to these inputs and not to x.

        Returns:
          The output [b, l, features]; with `q_inputs` a pair of the first block's outputs, a list of
          [b, a, width], and the output of the other blocks for x.
        """
        leaf = variable_in(self, self.collection)
        kernel = leaf("kernel", normal(self.std), (x.shape[-1], self.features))
        bias = leaf("bias", zeros, (self.features,))

        width = self.features // max(1, len(self.slots))
        updates = dense_updates(self.slots, x.shape[-1], width)

        def apply(x, columns, updates):
            if all(update is None for update in updates):
                return save_product(dense(x, kernel[:, columns], bias[columns]))
            y = dense(x, kernel[:, columns], dtype=sum_dtype(x.dtype))
            y = apply_updates(x, y, kernel[:, columns], updates)
            return save_product((y + bias[columns].astype(y.dtype)).astype(x.dtype))

        if not q_inputs:
            return apply(x, slice(None), updates)
        first = [apply(inputs, slice(width), updates[:1]) for inputs in q_inputs]
        return first, apply(x, slice(width, None), updates[1:])


def token_at(x: Float[Array, "b l d"], index: Int[Array, " b"] | None = None) -> Float[Array, "b 1 d"]:
    """Selects the token at `index` of each row, or the first token."""
    if index is None:
        return x[:, :1]
    rows = jax.lax.iota(index.dtype, x.shape[0])  # unlike jnp.arange also for a symbolic batch size in ONNX
    return x[rows, index][:, None]


class Attention(nn.Module):
    """Multi-head self-attention with q, k and v in one kernel, and prefix tokens among the keys.

    Attributes:
      heads: the number of heads.
      layers: the tower's number of blocks, which the initial values depend on.
      slots: the block's parts by slot.
      collection: the collection of the layer's own weights.
    """

    heads: int
    layers: int
    slots: Mapping[str, Part]
    collection: str = "params"

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"], mask, queries: Sequence[tuple] = ()):
        """Applies the layer.

        Args:
          x: the tokens.
          mask: added to the scores, [l, l], or None.
          queries: if given, only these tokens attend to x: pairs of tokens [b, a, d] and their mask, [a, l],
            [b, a, l] or None.

        Returns:
          The output [b, l, d]; with `queries` the list of their outputs [b, a, d].
        """
        d = x.shape[-1]
        qkv_slots, out_slots = (
            tuple((f"lora_{target}", self.slots.get(f"lora_{target}")) for target in targets)
            for targets in (("q", "k", "v"), ("out",))
        )
        qkv = Dense(3 * d, d**-0.5, qkv_slots, self.collection, name="qkv")
        out = Dense(d, (2 * self.layers * d) ** -0.5, out_slots, self.collection, name="out")
        spec = self.slots.get("prefix")
        prefix = PrefixPart(spec, d, name="prefix")() if isinstance(spec, Prefix) else None
        if not queries:
            return out(self_attention(qkv(x), self.heads, mask, prefix))
        qs, kv = qkv(x, [tokens for tokens, _ in queries])
        *qs, k, v = (split_heads(piece, self.heads) for piece in [*qs, *jnp.split(kv, 2, axis=-1)])
        masks = [mask for _, mask in queries]
        if prefix is not None:
            k, v = (with_prefix(tokens, x) for tokens, x in zip(prefix, (k, v), strict=True))
            masks = [mask_with_prefix(mask, len(prefix[0])) for mask in masks]
        masks = [mask[:, None] if mask is not None and mask.ndim == 3 else mask for mask in masks]
        return [out(join_heads(attend(q, k, v, mask))) for q, mask in zip(qs, masks, strict=True)]


class Mlp(nn.Module):
    """CLIP's two-layer perceptron."""

    width: int
    act: str
    layers: int
    slots: Mapping[str, Part]
    collection: str = "params"

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        """Applies both layers to each token."""
        d = x.shape[-1]
        fc, proj = ((("lora_" + name, self.slots.get("lora_" + name)),) for name in ("fc", "proj"))
        hidden = Dense(self.width, (2 * d) ** -0.5, fc, self.collection, name="fc")(x)
        hidden = ACTIVATIONS[self.act](hidden)
        return Dense(d, (2 * self.layers * d) ** -0.5, proj, self.collection, name="proj")(hidden)


class Block(nn.Module):
    """CLIP's pre-LN transformer block with parts in its slots; `petl_config.py` shows where each slot is.

    Attributes:
      heads: the number of attention heads.
      mlp_width: the width of the perceptron's hidden layer.
      layers: the tower's number of blocks, which the initial values depend on.
      act: a key of `ACTIVATIONS`.
      eps: the epsilon of the LayerNorms.
      slots: the block's parts by slot.
      collection: the collection of the block's own weights.
      last: whether the block returns one token of each row; the other tokens only provide keys and values.
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
    def __call__(
        self,
        x: Float[Array, "b l d"],
        mask: Float[Array, "l l"] | None = None,
        index: Int[Array, " b"] | None = None,
    ) -> Float[Array, "b m d"]:
        """Applies the block.

        Args:
          x: the tokens.
          mask: added to the attention scores.
          index: the token of each row that the last block returns; None is the first.

        Returns:
          All tokens, m = l, or one of each row, m = 1, if this is the `last` block.
        """
        norms = {name: LayerNorm(self.eps, self.collection, name=name) for name in ("ln_1", "ln_2")}
        attention = Attention(self.heads, self.layers, self.slots, self.collection, name="attn")
        mlp = Mlp(self.mlp_width, self.act, self.layers, self.slots, self.collection, name="mlp")
        part = {slot: adapter_module(self.slots.get(slot), slot, self.eps) for slot in ADAPTER_SLOTS}

        def finish_block(x, z):
            """Computes the rest of the block from the attention's output z."""
            h = x + z + part["after_attn"](z)
            z = mlp(norms["ln_2"](h) + part["beside_ln_2"](h))
            return h + z + part["after_mlp"](z) + part["beside_mlp"](h)

        u = norms["ln_1"](x) + part["beside_ln_1"](x)
        if not self.last:
            return finish_block(x, attention(u, mask))
        query = token_at(u, index), None if mask is None else mask[index][:, None]
        if any(part.is_mixture for part in self.slots.values()):
            # Routing statistics cover all tokens. The compiler drops whatever else is computed for them.
            all_tokens, z = attention(u, mask, [(u, mask), query])
            finish_block(x, all_tokens)
        else:
            (z,) = attention(u, mask, [query])
        return finish_block(token_at(x, index), z)
