"""CLIP's layers: LayerNorm, attention, MLP, the parts in a block's slots, and the block."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tpr_jax.models.methods import Adapter, Moe, Slots
from tpr_jax.models.petl import adapter as adapter_math
from tpr_jax.models.petl import moe as moe_math
from tpr_jax.models.products import dense, matmul

normal = nn.initializers.normal
zeros, ones = nn.initializers.zeros, nn.initializers.ones


def quick_gelu(x: Array) -> Array:
    """`x * sigmoid(1.702 x)`, the GELU that CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": lambda x: jax.nn.gelu(x, approximate=False)}


def layer_norm(x: Float[Array, "... d"], scale, bias, eps: float) -> Float[Array, "... d"]:
    """LayerNorm in float32 whatever x's type; returns x's type."""
    y = x.astype(jnp.float32)
    centred = y - y.mean(-1, keepdims=True)
    y = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps)
    return (y * scale + bias).astype(x.dtype)


def attend(q, k, v, mask) -> Float[Array, "b h l c"]:
    """Scaled dot-product attention, softmax in float32. q, k, v: [b, h, l, c]; mask adds to the scores."""
    scores = matmul(q * q.shape[-1] ** -0.5, jnp.swapaxes(k, -1, -2)).astype(jnp.float32)
    if mask is not None:
        scores = scores + mask
    return matmul(jax.nn.softmax(scores, axis=-1).astype(q.dtype), v)


class Dense(nn.Module):
    """`x @ kernel + bias`."""

    features: int
    std: float

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", normal(self.std), (x.shape[-1], self.features))
        bias = self.param("bias", zeros, (self.features,))
        return dense(x, kernel) + bias.astype(x.dtype)


class LayerNorm(nn.Module):
    """LayerNorm whose scale and bias live in `collection`."""

    eps: float
    collection: str = "params"

    @nn.compact
    def __call__(self, x):
        leaf = _leaf_of(self, self.collection)
        return layer_norm(x, leaf("scale", ones, x.shape[-1:]), leaf("bias", zeros, x.shape[-1:]), self.eps)


def _leaf_of(module: nn.Module, collection: str):
    """A maker of leaves in `collection`: its name is the freezing rule, so trainable parts never sit in
    `params`."""

    def leaf(name, init, shape):
        return module.variable(collection, name, lambda: init(module.make_rng("params"), shape)).value

    return leaf


class Linear(nn.Module):
    """Holds `kernel` and `bias` of a part, in `collection`; returns them as a dict."""

    collection: str
    kernel_init: object
    kernel_shape: tuple[int, ...]
    bias_shape: tuple[int, ...]

    @nn.compact
    def __call__(self):
        leaf = _leaf_of(self, self.collection)
        return {
            "kernel": leaf("kernel", self.kernel_init, self.kernel_shape),
            "bias": leaf("bias", zeros, self.bias_shape),
        }


class AdapterPart(nn.Module):
    """`scale * Adapter(LN3(h))`, in the collection `adapter`."""

    spec: Adapter
    eps: float

    @nn.compact
    def __call__(self, h):
        d = h.shape[-1]
        r = d // self.spec.reduction
        u = LayerNorm(self.eps, "adapter", name="ln_3")(h)
        down = Linear("adapter", adapter_math.kaiming_down(d), (d, r), (r,), name="down")()
        up = Linear("adapter", zeros, (r, d), (d,), name="up")()
        return self.spec.scale * adapter_math.adapter(u, down, up), {}


class Router(nn.Module):
    """The router's leaves: `w_in`, and unless it goes by the input alone `w_task`, `prompt` and `alpha`."""

    spec: Moe
    width: int

    @nn.compact
    def __call__(self):
        leaf, d, e = _leaf_of(self, "moe"), self.width, self.spec.num_experts
        router = {"w_in": leaf("w_in", normal(0.02), (d, e))}
        if self.spec.router != "input":
            router["w_task"] = leaf("w_task", normal(0.02), (d, e))
            router["prompt"] = leaf("prompt", normal(1.0), (d,))
        if self.spec.router == "blend":
            router["alpha"] = leaf("alpha", nn.initializers.constant(0.5), ())
        return router


class MoePart(nn.Module):
    """`scale * MoE(LN3(h))`, in the collection `moe`, with what the router did."""

    spec: Moe
    eps: float

    @nn.compact
    def __call__(self, h):
        spec, d = self.spec, h.shape[-1]
        e, r = spec.num_experts, d // spec.reduction
        u = LayerNorm(self.eps, "moe", name="ln_3")(h)
        router = Router(spec, d, name="router")()
        logits = moe_math.router_logits(u, router, spec.router)
        weights, chosen = moe_math.choose(logits, spec.top_k)
        down = Linear("moe", adapter_math.kaiming_down(d), (d, e, r), (e, r), name="down")()
        up = Linear("moe", zeros, (e, r, d), (e, d), name="up")()
        routing = {
            "balance": moe_math.balance(logits, chosen),
            "load": chosen.mean((0, 1)) / spec.top_k,
            "alpha": router.get("alpha", jnp.zeros(())),
        }
        return spec.scale * moe_math.mixture(u, weights, down, up), routing


class Attention(nn.Module):
    """Multi-head self-attention with q, k and v in one product."""

    heads: int
    layers: int

    @nn.compact
    def __call__(self, x, mask):
        b, l, d = x.shape
        qkv = Dense(3 * d, d**-0.5, name="qkv")(x).reshape(b, l, 3, self.heads, d // self.heads)
        q, k, v = jnp.moveaxis(qkv, (2, 3), (0, 2))
        y = jnp.swapaxes(attend(q, k, v, mask), 1, 2).reshape(b, l, d)
        return Dense(d, (2 * self.layers * d) ** -0.5, name="out")(y)


class Mlp(nn.Module):
    """CLIP's two-layer perceptron."""

    width: int
    act: str
    layers: int

    @nn.compact
    def __call__(self, x):
        d = x.shape[-1]
        hidden = ACTIVATIONS[self.act](Dense(self.width, (2 * d) ** -0.5, name="fc")(x))
        return Dense(d, (2 * self.layers * d) ** -0.5, name="proj")(hidden)


PARTS = {Adapter: AdapterPart, Moe: MoePart}


class Block(nn.Module):
    """A pre-LN block, `h = x + MHA(LN1(x)); y = h + MLP(LN2(h)) + beside_mlp(h)`; returns (y, routing)."""

    heads: int
    mlp_width: int
    layers: int
    act: str
    eps: float
    slots: Slots

    @nn.compact
    def __call__(self, x, mask=None):
        attention = Attention(self.heads, self.layers, name="attn")
        h = x + attention(LayerNorm(self.eps, name="ln_1")(x), mask)
        y = h + Mlp(self.mlp_width, self.act, self.layers, name="mlp")(LayerNorm(self.eps, name="ln_2")(h))
        if self.slots.beside_mlp is None:
            return y, {}
        part = PARTS[type(self.slots.beside_mlp)](self.slots.beside_mlp, self.eps, name="beside_mlp")
        added, routing = part(h)
        return y + added, routing
