"""Heads that some losses train beside the towers and that retrieval does not use (IRRA, CVPR 2023)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from tpr_jax.models.attention import attend, join_heads, split_heads
from tpr_jax.models.block import Block, Dense
from tpr_jax.models.layers import LayerNorm, normal, quick_gelu, variable_in, zeros
from tpr_jax.models.matmul import dense


class Classifier(nn.Module):
    """The linear classifier of identities."""

    num_classes: int

    @nn.compact
    def __call__(self, feats: Float[Array, "b e"]) -> Float[Array, "b n"]:
        """Returns the logits, in float32 for float32 features."""
        leaf = variable_in(self, "head")
        kernel = leaf("kernel", normal(0.001), (feats.shape[-1], self.num_classes))
        return feats @ kernel + leaf("bias", zeros, (self.num_classes,))


class Temperature(nn.Module):
    """A learned temperature, as the logarithm of its inverse (CLIP, arXiv 2103.00020, section 2.5)."""

    initial: float

    @nn.compact
    def __call__(self) -> Float[Array, ""]:
        """Returns log(1 / temperature)."""
        return variable_in(self, "head")("log_scale", lambda *_: -jnp.log(self.initial), ())


class CrossAttention(nn.Module):
    """Attention of text tokens to image tokens, with all projections in one kernel."""

    heads: int
    layers: int

    @nn.compact
    def __call__(self, text: Float[Array, "b l e"], image: Float[Array, "b n e"]) -> Float[Array, "b l e"]:
        """Returns one token for each text token."""
        e = text.shape[-1]
        qkv = Qkv(e, name="qkv")
        q, k, v = (split_heads(projected, self.heads) for projected in qkv(text, image))
        return Dense(e, (2 * self.layers * e) ** -0.5, (), "head", name="out")(
            join_heads(attend(q, k, v, None))
        )


class Qkv(nn.Module):
    """The queries of the text, and the keys and values of the image."""

    width: int

    @nn.compact
    def __call__(
        self, text: Float[Array, "b l e"], image: Float[Array, "b n e"]
    ) -> tuple[Float[Array, "b l e"], Float[Array, "b n e"], Float[Array, "b n e"]]:
        """Returns q, k and v."""
        leaf, e = variable_in(self, "head"), self.width
        kernel = leaf("kernel", normal(e**-0.5), (e, 3 * e))
        bias = leaf("bias", zeros, (3 * e,))
        q = dense(text, kernel[:, :e], bias[:e])
        k, v = jnp.split(dense(image, kernel[:, e:], bias[e:]), 2, axis=-1)
        return q, k, v


class MaskedWords(nn.Module):
    """Predicts masked words from the tokens of the text and the image."""

    depth: int
    vocab_size: int
    eps: float = 1e-5

    @nn.compact
    def __call__(
        self, image: Float[Array, "b n e"], text: Float[Array, "b l e"]
    ) -> Float[Array, "b l vocabulary"]:
        """Returns the logits of the word at each position of the text."""
        e, n = text.shape[-1], self.depth
        heads = max(1, e // 64)
        image = image.astype(text.dtype)

        def norm(name, x):
            return LayerNorm(self.eps, "head", name=name)(x)

        x = CrossAttention(heads, n, name="cross_attn")(norm("ln_pre_t", text), norm("ln_pre_i", image))
        for i in range(n):
            block = Block(
                heads,
                mlp_width=4 * e,
                layers=n,
                act="quick_gelu",
                eps=self.eps,
                slots={},
                collection="head",
                name=f"cross_block_{i}",
            )
            x = block(x)
        x = norm("ln_post", x)
        x = quick_gelu(Dense(e, (2 * e) ** -0.5, (), "head", name="mlm_head_dense")(x))
        x = norm("mlm_head_ln", x)
        return Dense(self.vocab_size, (2 * n * e) ** -0.5, (), "head", name="mlm_head_fc")(x)
