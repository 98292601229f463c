"""Exposes the activations inside the towers: each token's experts, and the attention that a prefix receives.

Ordinary use saves none of this. Here Flax's interceptors record each layer's inputs and outputs, and the
layer's own functions recompute from them what it does not return.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from tpr_jax.models.attention import attention_weights, split_heads
from tpr_jax.models.block import Attention
from tpr_jax.models.clip import Clip
from tpr_jax.models.config import NO_HEADS, ClipConfig
from tpr_jax.models.methods import Method
from tpr_jax.models.petl import moe
from tpr_jax.models.petl.prefix import mask_with_prefix
from tpr_jax.models.petl_modules import Router


class Call(NamedTuple):
    """A recorded call of a module."""

    module: nn.Module
    inputs: tuple
    output: Any


def build_inside(config: ClipConfig, method: Method, dtype: str = "float32") -> dict[str, Callable]:
    """Builds functions that return activations inside the towers.

    Args:
      config: CLIP's sizes.
      method: the parts and prompts.
      dtype: the dtype of the computation.

    Returns:
      The pure functions `image(variables, images)`, for normalized images, and `text(variables, ids)`. Each
      returns a dict:

      `tokens`: The unnormalized float32 features of all tokens in the common space, [b, n, e].

      `experts`: For each mixture, by its path such as `visual/block_0/beside_mlp`, its experts' weights
      [b, n, experts]. They sum to 1 and are 0 for experts that a token is not routed to.

      `prefix`: For each block with prefix tokens, by its path such as `visual/block_0`, the share of each
      token's attention on the prefix, [b, heads, n]: the sum of the softmax over the prefix keys.

      n counts all tokens of the sequence: in CLIP class token, patches, prompts, or start-of-text, prompts,
      words; in SigLIP patches, prompts, or words, padding, prompts. `tokens` of SigLIP's images are those of
      the image and of each patch.
    """
    model = Clip(config, method, NO_HEADS, jnp.dtype(dtype))

    def inspect(name: str, variables: dict, inputs) -> dict:
        calls: dict[str, Call] = {}

        def record(call, args, kwargs, context):
            output = call(*args, **kwargs)
            if context.method_name == "__call__":
                calls["/".join(context.module.path)] = Call(context.module, args, output)
            return output

        with nn.intercept_methods(record):
            tokens, _ = model.apply(variables, inputs, method=name, mutable=["routing"], all_tokens=True)
        return {
            "tokens": tokens.astype(jnp.float32),
            "experts": _expert_weights(calls),
            "prefix": _prefix_attention(calls),
        }

    return {
        "image": lambda variables, images: inspect("encode_image", variables, images),
        "text": lambda variables, ids: inspect("encode_text", variables, ids),
    }


def _expert_weights(calls: dict[str, Call]) -> dict[str, Float[Array, "b n e"]]:
    """Returns the experts' weights of each mixture, by its path."""
    weights = {}
    for path, (router, _, output) in calls.items():
        if isinstance(router, Router):
            logits, _ = output
            weights[path.removesuffix("/router")] = moe.top_k_gating(logits, router.spec.top_k)[0]
    return weights


def _prefix_attention(calls: dict[str, Call]) -> dict[str, Float[Array, "b h n"]]:
    """Returns the share of attention on the prefix in each block that has one, by the block's path."""
    shares = {}
    for path, (attention, inputs, _) in calls.items():
        if not isinstance(attention, Attention) or f"{path}/prefix" not in calls:
            continue
        _, mask, *_ = inputs
        qkv = calls[f"{path}/qkv"].output
        keys, _ = calls[f"{path}/prefix"].output
        q, k, _ = (split_heads(piece, attention.heads) for piece in jnp.split(qkv, 3, axis=-1))
        prefix = split_heads(keys[None].astype(k.dtype), attention.heads)
        shares[path.removesuffix("/attn")] = prefix_attention(q, k, prefix, mask)
    return shares


def prefix_attention(
    q: Float[Array, "b h n c"],
    k: Float[Array, "b h n c"],
    prefix: Float[Array, "1 h m c"],
    mask: Float[Array, "n n"] | None = None,
) -> Float[Array, "b h n"]:
    """Computes the share of each query's attention that falls on the prefix keys, from 0 to 1."""
    k = jnp.concatenate([jnp.broadcast_to(prefix, (len(k), *prefix.shape[1:])), k], axis=2)
    return attention_weights(q, k, mask_with_prefix(mask, prefix.shape[2]))[..., : prefix.shape[2]].sum(-1)
