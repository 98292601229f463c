"""The Flax modules of the PEFT parts: each holds a part's variables and applies the functions of `petl`."""

from collections.abc import Callable, Sequence
from typing import cast

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from tpr_jax.models.layers import LayerNorm, normal, ones, variable_in, zeros
from tpr_jax.models.petl import lora, moe, prefix, prompts
from tpr_jax.models.petl.adapter import adapter, kaiming_uniform
from tpr_jax.models.petl_config import Adapter, Lora, LoraMoe, Moe, Part, Prefix, Prompts


class Linear(nn.Module):
    """Holds the `kernel` and `bias` of a part's linear map in `collection`."""

    collection: str
    kernel_init: Callable
    kernel_shape: tuple[int, ...]
    bias_shape: tuple[int, ...]

    @nn.compact
    def __call__(self) -> dict:
        """Returns `kernel` and `bias`."""
        leaf = variable_in(self, self.collection)
        return {
            "kernel": leaf("kernel", self.kernel_init, self.kernel_shape),
            "bias": leaf("bias", zeros, self.bias_shape),
        }


def learned_scale(module: nn.Module, collection: str, scale: float | str):
    """Returns a part's scale: the constant, or where it is "learned" a variable that is initialized to 1."""
    return (
        variable_in(module, collection)("scale", ones, ()).astype(jnp.float32)
        if scale == "learned"
        else scale
    )


# Adapter slots: modules that compute what the part adds.


class AdapterPart(nn.Module):
    """Computes `scale * Adapter(u)`, u being `LN3(x)` or x."""

    spec: Adapter
    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        """Returns the adapter's output, to be added by the caller."""
        spec, d = self.spec, x.shape[-1]
        r = d // spec.reduction
        if spec.norm:
            x = LayerNorm(self.eps, "adapter", name="ln_3")(x)
        inits = {"zero": (kaiming_uniform(d), zeros), "normal": (normal(0.02), normal(0.02))}
        down_init, up_init = inits[spec.init]
        down = Linear("adapter", down_init, (d, r), (r,), name="down")()
        up = Linear("adapter", up_init, (r, d), (d,), name="up")()
        # Scaling the small matrix makes a learned scale free of cost per token.
        scale = learned_scale(self, "adapter", spec.scale)
        return adapter(x, down, {name: scale * leaf for name, leaf in up.items()})


class Router(nn.Module):
    """Scores the experts of a mixture; holds `w_in`, and as the kind needs `w_task`, `prompt` and `alpha`."""

    spec: Moe | LoraMoe

    @nn.compact
    def __call__(self, u: Float[Array, "b l d"]) -> tuple[Float[Array, "b l e"], dict]:
        """Returns the experts' scores and the router's variables."""
        leaf, d, e = variable_in(self, "moe"), u.shape[-1], self.spec.num_experts
        router = {"w_in": leaf("w_in", normal(0.02), (d, e))}
        if self.spec.router != "input":
            router["w_task"] = leaf("w_task", normal(0.02), (d, e))
            router["prompt"] = leaf("prompt", normal(1.0), (d,))
        if self.spec.router == "blend":
            router["alpha"] = leaf("alpha", nn.initializers.constant(0.5), ())
        return moe.router_logits(u, router, self.spec.router), router


def route(module: nn.Module, spec: Moe | LoraMoe, u: Float[Array, "b l d"]) -> Float[Array, "b l e"]:
    """Computes the experts' weights for each token.

    Sows each row's routing statistics of the first call into the collection `routing`; `moe.batch_statistics`
    computes those of the batch.
    """
    logits, router = Router(spec, name="router")(u)
    weights, selected = moe.top_k_gating(logits, spec.top_k)
    probability, selected_mean = moe.routing_means(logits, selected)
    statistics = {"probability": probability, "chosen": selected_mean}
    statistics |= {key: router[key] for key in ("alpha",) if key in router}
    module.sow("routing", "mixture", statistics, reduce_fn=lambda kept, new: kept or (new,))
    return weights


class MoePart(nn.Module):
    """Computes a mixture of adapters, `scale * MoE(LN3(x))`."""

    spec: Moe
    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        """Returns the mixture's output, to be added by the caller."""
        spec, d = self.spec, x.shape[-1]
        e, r = spec.num_experts, d // spec.reduction
        u = LayerNorm(self.eps, "moe", name="ln_3")(x)
        weights = route(self, spec, u)
        down = Linear("moe", kaiming_uniform(d), (d, e, r), (e, r), name="down")()
        up = Linear("moe", zeros, (e, r, d), (e, d), name="up")()
        return spec.scale * moe.mixture(u, weights, spec.top_k, down, up)


ADAPTER_MODULES: dict[type[Part], Callable[..., Callable]] = {Adapter: AdapterPart, Moe: MoePart}


def adapter_module(part: Part | None, slot: str, eps: float) -> Callable:
    """Returns the function of x that computes what an adapter slot's part adds; zero for an empty slot.

    Must be called inside a compact method.
    """
    if part is None:
        return lambda x: jnp.zeros((), x.dtype)
    return ADAPTER_MODULES[type(part)](part, eps, name=slot)


# Slots of a dense layer: parts that update `x @ kernel`.


class LoraPart(nn.Module):
    """Holds a target's `a` [d, r] and `b` [r, width], and where they are learned `scale` and `magnitude`."""

    spec: Lora
    shape: tuple[int, int]

    @nn.compact
    def __call__(self) -> dict:
        """Returns the update as `lora.delta` takes it."""
        leaf, (d, width) = variable_in(self, "lora"), self.shape
        leaves = {
            "a": leaf("a", kaiming_uniform(d), (d, self.spec.rank)),
            "b": leaf("b", zeros, (self.spec.rank, width)),
            "scale": learned_scale(self, "lora", self.spec.scale),
        }
        if self.spec.dora:
            leaves["magnitude"] = leaf("magnitude", ones, (width,))
        return leaves


class LoraMoePart(nn.Module):
    """Computes a target's mixture of low-rank experts."""

    spec: LoraMoe
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l n"]:
        """Returns the mixture's output, to be added by the caller."""
        spec, d = self.spec, x.shape[-1]
        leaf, e, r = variable_in(self, "moe"), spec.num_experts, spec.rank
        weights = route(self, spec, x)
        a, b = leaf("a", kaiming_uniform(d), (d, e, r)), leaf("b", zeros, (e, r, self.width))
        return spec.scale * moe.low_rank_mixture(x, weights, a, b)


# Each returns a dict, LoRA's update for `lora.delta`, or a module that computes what to add to the result.
DENSE_MODULES: dict[type[Part], Callable[..., dict | Callable]] = {
    Lora: lambda part, slot, d, width: LoraPart(part, (d, width), name=slot)(),
    LoraMoe: lambda part, slot, d, width: LoraMoePart(part, width, name=slot),
}


def dense_updates(
    slots: Sequence[tuple[str, Part | None]], d: int, width: int
) -> list[dict | Callable | None]:
    """Returns the updates of a dense layer, one for each slot; None for an empty slot.

    Must be called inside a compact method.

    Args:
      slots: for each column block of the kernel, the name of its slot and the part in it.
      d: the width of the layer's input.
      width: the number of columns of each block.
    """
    return [None if part is None else DENSE_MODULES[type(part)](part, slot, d, width) for slot, part in slots]


def apply_updates(
    x: Float[Array, "b l d"],
    y: Float[Array, "b l n"],
    kernel: Float[Array, "d n"],
    updates: list[dict | Callable | None],
) -> Float[Array, "b l n"]:
    """Applies the updates of `dense_updates` to `y = x @ kernel`, one to each of its equal column blocks."""
    width = y.shape[-1] // len(updates)
    loras = [update if isinstance(update, dict) else None for update in updates]
    if any(update is not None for update in loras):
        y = y + lora.delta(x, loras, width, y.dtype)
    if any(update is not None and "magnitude" in update for update in loras):
        ratios = [
            lora.magnitude_ratio(kernel[:, i * width : (i + 1) * width], update)
            if update is not None and "magnitude" in update
            else jnp.ones(width)
            for i, update in enumerate(loras)
        ]
        y = y * jnp.concatenate(ratios).astype(y.dtype)
    for i, update in enumerate(updates):
        if callable(update):
            y = y.at[..., i * width : (i + 1) * width].add(update(x))
    return y


# Slots of their own.


class PrefixPart(nn.Module):
    """Holds a block's prefix tokens and their scalars."""

    spec: Prefix
    width: int

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "m d"], Float[Array, "m d"]]:
        """Returns the key tokens and the value tokens, with the scalars folded in."""
        leaf, spec = variable_in(self, "prefix"), self.spec
        start = nn.initializers.uniform(0.01)
        leaves = {name: leaf(name, start, (spec.length, self.width)) for name in ("key", "value")}
        if spec.scaled:
            leaves |= {name: leaf(name, ones, ()) for name in ("key_scale", "value_scale")}
        if spec.gate is not None:
            leaves["gate"] = leaf("gate", nn.initializers.constant(spec.gate), ())
        key, value = prefix.prefix_tokens(leaves)
        return cast(Array, key), cast(Array, value)  # as the leaves are


class PromptPart(nn.Module):
    """Holds the prompt tokens of the first `depth` blocks of both towers, of widths (v, w), and maps."""

    spec: Prompts
    depth: int
    widths: tuple[int, int]

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "k p v"], Float[Array, "k q w"]]:
        """Returns the tokens of each block for the vision tower and for the text tower."""
        leaf, start, (v, w) = variable_in(self, "prompt"), normal(0.02), self.widths
        k, n, direction = self.depth, self.spec.length, self.spec.direction
        leaves = {"visual": leaf("visual", start, (k, n, v)), "text": leaf("text", start, (k, n, w))}
        if direction in ("both", "to_vision"):
            leaves["to_visual"] = Linear("prompt", start, (k, w, v), (k, v), name="to_visual")()
        if direction in ("both", "to_text"):
            leaves["to_text"] = Linear("prompt", start, (k, v, w), (k, w), name="to_text")()
        return prompts.prompt_tokens(leaves)
