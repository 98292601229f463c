"""SigLIP's own heads: attention pooling of the image's patches, and the projection of the text."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from tpr_jax.models.attention import attend, join_heads, split_heads
from tpr_jax.models.block import Dense, Mlp
from tpr_jax.models.layers import LayerNorm, normal, zeros
from tpr_jax.models.matmul import dense


class ProbeAttention(nn.Module):
    """Attention of the learned probe to tokens, with q, k and v in one kernel."""

    heads: int

    @nn.compact
    def __call__(
        self, probe: Float[Array, "1 1 d"], x: Float[Array, "b n d"], each: bool
    ) -> Float[Array, "b m d"]:
        """Returns the token pooled from all of x, and if `each` is set those pooled from one token each."""
        b, _, d = x.shape
        (q,), kv = Dense(3 * d, d**-0.5, (("q", None), ("k", None), ("v", None)), name="qkv")(x, [probe])
        k, v = jnp.split(kv, 2, axis=-1)
        q = jnp.broadcast_to(q, (b, 1, d))
        pooled = join_heads(attend(*(split_heads(piece, self.heads) for piece in (q, k, v)), None))
        if each:  # the softmax over a single key is 1
            pooled = jnp.concatenate([pooled, v], axis=1)
        return Dense(d, d**-0.5, name="out")(pooled)


class AttentionPool(nn.Module):
    """Pools tokens by the attention of a learned probe, followed by a residual perceptron (SigLIP)."""

    heads: int
    mlp_width: int
    act: str
    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], each: bool = False) -> Float[Array, "*tokens d"]:
        """Returns the pooled feature [b, d], or with `each` it and that of each token, [b, 1 + n, d]."""
        d = x.shape[-1]
        probe = self.param("probe", normal(d**-0.5), (1, 1, d)).astype(x.dtype)
        x = ProbeAttention(self.heads, name="attn")(probe, x, each)
        x = x + Mlp(self.mlp_width, self.act, 1, {}, name="mlp")(LayerNorm(self.eps, name="ln_2")(x))
        return x if each else x[:, 0]


class Projection(nn.Module):
    """A linear layer with bias for tokens or features."""

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "*tokens d"]) -> Float[Array, "*tokens e"]:
        """Applies the layer."""
        d = x.shape[-1]
        kernel = self.param("kernel", normal(d**-0.5), (d, self.width))
        return dense(x, kernel, self.param("bias", zeros, (self.width,)))
