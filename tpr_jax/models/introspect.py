"""What happens inside the towers: where routers send each token, and how much attention a prefix gets.

Nothing of it is kept in ordinary use. Here Flax tells of each layer as it is called, and what was not
returned is computed again from what the layer read, by the functions that the layer itself uses.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from tpr_jax.models.attention import attention_weights, split_heads
from tpr_jax.models.block import Attention, Dense
from tpr_jax.models.clip import Clip
from tpr_jax.models.config import ClipConfig
from tpr_jax.models.heads import NO_HEADS
from tpr_jax.models.layers import LayerNorm
from tpr_jax.models.methods import Method
from tpr_jax.models.petl import moe
from tpr_jax.models.petl.prefix import mask_with_prefix
from tpr_jax.models.petl_modules import LoraMoePart, MoePart, PrefixPart, Router


def build_inside(config: ClipConfig, method: Method, dtype: str = "float32") -> dict[str, Callable]:
    """The pure functions `image(variables, normalized images)` and `text(variables, ids)`, which return

    `tokens`: the features of all tokens in the towers' common space, unnormalized, float32 [b, n, e].
    `experts`: of each mixture, by its path such as `visual/block_0/beside_mlp`, the weights of its experts,
        [b, n, experts]; they sum to 1, and are 0 for experts that a token is not sent to.
    `prefix`: of each block with prefix tokens, by its path such as `visual/block_0`, the share of each
        token's attention that the prefix gets, [b, heads, n]: what the softmax gives its keys together.

    n counts all tokens of the sequence: class token, patches, prompts; or start of text, prompts, words, ...
    """
    model = Clip(config, method, NO_HEADS, jnp.dtype(dtype))

    def look(name: str, variables: dict, inputs) -> dict:
        calls: dict[str, tuple] = {}

        def keep(call, args, kwargs, context):
            out = call(*args, **kwargs)
            if context.method_name == "__call__":
                calls["/".join(context.module.path)] = (context.module, args, out)
            return out

        with nn.intercept_methods(keep):
            tokens, _ = model.apply(variables, inputs, method=name, mutable=["routing"], all_tokens=True)
        return {
            "tokens": tokens.astype(jnp.float32),
            "experts": {path: _weights(path, calls) for path in _of(calls, MoePart, LoraMoePart)},
            "prefix": {path.removesuffix("/attn"): mass for path, mass in _masses(calls).items()},
        }

    return {
        "image": lambda variables, images: look("encode_image", variables, images),
        "text": lambda variables, ids: look("encode_text", variables, ids),
    }


def _of(calls: dict, *kinds: type) -> list[str]:
    return [path for path, (module, _, _) in calls.items() if isinstance(module, kinds)]


def _weights(path: str, calls: dict) -> Float[Array, "b n e"]:
    """The experts' weights in the mixture at `path`."""
    part, (u, *_), _ = calls[path]
    if isinstance(part, MoePart):
        norm, _, u = calls[f"{path}/ln_3"]
        assert isinstance(norm, LayerNorm)
    router, _, leaves = calls[f"{path}/router"]
    assert isinstance(router, Router)
    return moe.choose(moe.router_logits(u, leaves, part.spec.router), part.spec.top_k)[0]


def _masses(calls: dict) -> dict[str, Float[Array, "b h n"]]:
    """Of each attention layer with a prefix, by its path, the softmax' sum over the prefix' keys."""
    found = {}
    for path in _of(calls, Attention):
        attention, (_, mask, *_), _ = calls[path]
        if f"{path}/prefix" not in calls:
            continue
        product, _, qkv = calls[f"{path}/qkv"]
        prefix, _, (keys, _) = calls[f"{path}/prefix"]
        assert isinstance(product, Dense) and isinstance(prefix, PrefixPart)
        q, k, _ = (split_heads(piece, attention.heads) for piece in jnp.split(qkv, 3, axis=-1))
        found[path] = prefix_mass(q, k, split_heads(keys[None].astype(k.dtype), attention.heads), mask)
    return found


def prefix_mass(
    q: Float[Array, "b h n c"], k: Float[Array, "b h n c"], prefix: Float[Array, "1 h m c"], mask=None
) -> Float[Array, "b h n"]:
    """What of each query's softmax over the prefix' keys and k falls on the prefix, from 0 to 1."""
    k = jnp.concatenate([jnp.broadcast_to(prefix, (len(k), *prefix.shape[1:])), k], axis=2)
    return attention_weights(q, k, mask_with_prefix(mask, prefix.shape[2]))[..., : prefix.shape[2]].sum(-1)
