"""The modules that hold the parts' leaves, each in its collection, and apply the mathematics of `petl`."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from tpr_jax.models.layers import LayerNorm, normal, ones, variable_in, zeros
from tpr_jax.models.petl import lora, moe, prefix, prompts
from tpr_jax.models.petl.adapter import adapter, kaiming_down
from tpr_jax.models.petl_config import Adapter, Lora, LoraMoe, Moe, Part, Prefix, Prompts


class Linear(nn.Module):
    """Holds `kernel` and `bias` of a part, in `collection`; returns them as a dict."""

    collection: str
    kernel_init: object
    kernel_shape: tuple[int, ...]
    bias_shape: tuple[int, ...]

    @nn.compact
    def __call__(self):
        leaf = variable_in(self, self.collection)
        return {
            "kernel": leaf("kernel", self.kernel_init, self.kernel_shape),
            "bias": leaf("bias", zeros, self.bias_shape),
        }


class AdapterPart(nn.Module):
    """What an adapter adds, `scale * Adapter(u)`, u being `LN3(x)` or x."""

    spec: Adapter
    eps: float

    @nn.compact
    def __call__(self, x):
        spec, d = self.spec, x.shape[-1]
        r = d // spec.reduction
        if spec.norm:
            x = LayerNorm(self.eps, "adapter", name="ln_3")(x)
        by_init = {"zero": (kaiming_down(d), zeros), "normal": (normal(0.02), normal(0.02))}
        down_init, up_init = by_init[spec.init]
        down = Linear("adapter", down_init, (d, r), (r,), name="down")()
        up = Linear("adapter", up_init, (r, d), (d,), name="up")()
        return learned_scale(self, "adapter", spec.scale, x.dtype) * adapter(x, down, up)


def learned_scale(module: nn.Module, collection: str, scale: float | str, dtype=jnp.float32):
    """A part's scale: the constant, or a leaf that starts at 1."""
    return variable_in(module, collection)("scale", ones, ()).astype(dtype) if scale == "learned" else scale


class Router(nn.Module):
    """The router's leaves: `w_in`, and unless it goes by the input alone `w_task`, `prompt` and `alpha`."""

    spec: Moe | LoraMoe
    width: int

    @nn.compact
    def __call__(self):
        leaf, d, e = variable_in(self, "moe"), self.width, self.spec.num_experts
        router = {"w_in": leaf("w_in", normal(0.02), (d, e))}
        if self.spec.router != "input":
            router["w_task"] = leaf("w_task", normal(0.02), (d, e))
            router["prompt"] = leaf("prompt", normal(1.0), (d,))
        if self.spec.router == "blend":
            router["alpha"] = leaf("alpha", nn.initializers.constant(0.5), ())
        return router


def route(module: nn.Module, spec: Moe | LoraMoe, u):
    """The experts' weights for each token, [b, l, e]; what the router did goes into collection `routing`, of
    the first tokens that it sees."""
    router = Router(spec, u.shape[-1], name="router")()
    logits = moe.router_logits(u, router, spec.router)
    weights, chosen = moe.choose(logits, spec.top_k)
    probability, share = moe.shares(logits, chosen)
    statistics = {"balance": moe.balance_of(probability, share), "load": share / spec.top_k}
    statistics |= {"probability": probability, "chosen": share}
    statistics |= {key: router[key] for key in ("alpha",) if key in router}
    module.sow("routing", "mixture", statistics, reduce_fn=lambda kept, new: kept or (new,))
    return weights


class MoePart(nn.Module):
    """What a mixture of adapters adds, `scale * MoE(LN3(x))`."""

    spec: Moe
    eps: float

    @nn.compact
    def __call__(self, x):
        spec, d = self.spec, x.shape[-1]
        e, r = spec.num_experts, d // spec.reduction
        u = LayerNorm(self.eps, "moe", name="ln_3")(x)
        weights = route(self, spec, u)
        down = Linear("moe", kaiming_down(d), (d, e, r), (e, r), name="down")()
        up = Linear("moe", zeros, (e, r, d), (e, d), name="up")()
        return spec.scale * moe.mixture(u, weights, spec.top_k, down, up)


class LoraPart(nn.Module):
    """Holds one target's `a` [d, r], `b` [r, width], and `scale` and `magnitude` if they are learned."""

    spec: Lora
    shape: tuple[int, int]

    @nn.compact
    def __call__(self):
        leaf, (d, width) = variable_in(self, "lora"), self.shape
        leaves = {
            "a": leaf("a", kaiming_down(d), (d, self.spec.rank)),
            "b": leaf("b", zeros, (self.spec.rank, width)),
            "scale": learned_scale(self, "lora", self.spec.scale),
        }
        if self.spec.dora:
            leaves["magnitude"] = leaf("magnitude", ones, (width,))
        return leaves


class LoraMoePart(nn.Module):
    """What a target's mixture of low-rank experts adds."""

    spec: LoraMoe
    width: int

    @nn.compact
    def __call__(self, x):
        spec, d = self.spec, x.shape[-1]
        leaf, e, r = variable_in(self, "moe"), spec.num_experts, spec.rank
        weights = route(self, spec, x)
        a, b = leaf("a", kaiming_down(d), (d, e, r)), leaf("b", zeros, (e, r, self.width))
        return spec.scale * moe.low_rank_mixture(x, weights, a, b)


def low_rank_parts(slots: tuple[tuple[str, Part | None], ...], d: int, width: int) -> list:
    """Of each slot LoRA's leaves, or what a mixture of low-rank experts adds as a function of x, or None.

    Must be called inside a compact method.
    """
    made = {
        Lora: lambda slot, part: LoraPart(part, (d, width), name=slot)(),
        LoraMoe: lambda slot, part: LoraMoePart(part, width, name=slot),
    }
    return [None if part is None else made[type(part)](slot, part) for slot, part in slots]


def low_rank(x, y, kernel, parts: list):
    """Updates `y = x @ kernel`, whose columns are equal pieces, one a part, by `low_rank_parts`."""
    width = y.shape[-1] // len(parts)
    pieces = [part if isinstance(part, dict) else None for part in parts]
    if any(piece is not None for piece in pieces):
        y = y + lora.delta(x, pieces, width)
    if any(piece is not None and "magnitude" in piece for piece in pieces):
        ratios = [
            lora.magnitude_ratio(kernel[:, i * width : (i + 1) * width], piece)
            if piece is not None and "magnitude" in piece
            else jnp.ones(width)
            for i, piece in enumerate(pieces)
        ]
        y = y * jnp.concatenate(ratios).astype(y.dtype)
    for i, part in enumerate(parts):
        if isinstance(part, LoraMoePart):
            y = y.at[..., i * width : (i + 1) * width].add(part(x))
    return y


class PrefixPart(nn.Module):
    """A block's key and value tokens [m, d], scalars folded in."""

    spec: Prefix
    width: int

    @nn.compact
    def __call__(self):
        leaf, spec = variable_in(self, "prefix"), self.spec
        start = nn.initializers.uniform(0.01)
        leaves = {name: leaf(name, start, (spec.length, self.width)) for name in ("key", "value")}
        if spec.scaled:
            leaves |= {name: leaf(name, ones, ()) for name in ("key_scale", "value_scale")}
        if spec.gate is not None:
            leaves["gate"] = leaf("gate", nn.initializers.constant(spec.gate), ())
        return prefix.prefix_tokens(leaves)


class PromptPart(nn.Module):
    """The tokens of the first blocks of the vision tower [k, p, v] and of the text tower [k, p, w]."""

    spec: Prompts
    depth: int
    widths: tuple[int, int]

    @nn.compact
    def __call__(self):
        leaf, start, (v, w) = variable_in(self, "prompt"), normal(0.02), self.widths
        k, n, direction = self.depth, self.spec.length, self.spec.direction
        leaves = {"visual": leaf("visual", start, (k, n, v)), "text": leaf("text", start, (k, n, w))}
        if direction in ("both", "to_vision"):
            leaves["to_visual"] = Linear("prompt", start, (k, w, v), (k, v), name="to_visual")()
        if direction in ("both", "to_text"):
            leaves["to_text"] = Linear("prompt", start, (k, v, w), (k, w), name="to_text")()
        return prompts.prompt_tokens(leaves)


def apply_adapter(part: Part | None, slot: str, eps: float) -> Callable:
    """What the part in an adapter's slot adds, as a function of its layer's tokens; zero without a part.

    Must be called inside a compact method.
    """
    if part is None:
        return lambda x: jnp.zeros((), x.dtype)
    kind = MoePart if isinstance(part, Moe) else AdapterPart
    return kind(part, eps, name=slot)
