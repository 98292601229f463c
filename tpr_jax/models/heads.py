"""What some losses need beside the towers, trained with them, unused in retrieval (IRRA, CVPR 2023)."""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp

from tpr_jax.models.attention import attend, join_heads, split_heads
from tpr_jax.models.block import Block, Dense
from tpr_jax.models.layers import LayerNorm, normal, quick_gelu, variable_in, zeros
from tpr_jax.models.matmul import dense


@dataclass(frozen=True)
class Heads:
    """Sizes: `num_classes` identities for the loss 'id', `mlm_depth` blocks for 'mlm'; 0: none."""

    num_classes: int = 0
    mlm_depth: int = 0


NO_HEADS = Heads()


class Classifier(nn.Module):
    """The linear classifier of the identities: features [b, e] -> logits [b, n], float32."""

    num_classes: int

    @nn.compact
    def __call__(self, feats):
        leaf = variable_in(self, "head")
        kernel = leaf("kernel", normal(0.001), (feats.shape[-1], self.num_classes))
        return feats @ kernel + leaf("bias", zeros, (self.num_classes,))


class CrossAttention(nn.Module):
    """Attention of text tokens to image tokens, projections in one kernel as `qkv`."""

    heads: int
    layers: int

    @nn.compact
    def __call__(self, text, image):
        e = text.shape[-1]
        qkv = Qkv(e, name="qkv")
        q, k, v = (split_heads(part, self.heads) for part in qkv(text, image))
        return Dense(e, (2 * self.layers * e) ** -0.5, (), "head", name="out")(
            join_heads(attend(q, k, v, None))
        )


class Qkv(nn.Module):
    """q of the text, k and v of the image."""

    width: int

    @nn.compact
    def __call__(self, text, image):
        leaf, e = variable_in(self, "head"), self.width
        kernel = leaf("kernel", normal(e**-0.5), (e, 3 * e))
        bias = leaf("bias", zeros, (3 * e,)).astype(text.dtype)
        q = dense(text, kernel[:, :e]) + bias[:e]
        k, v = jnp.split(dense(image, kernel[:, e:]) + bias[e:], 2, axis=-1)
        return q, k, v


class MaskedWords(nn.Module):
    """Which word each masked one was: tokens of image [b, n, e], text [b, l, e] -> logits [b, l, vocab]."""

    depth: int
    vocab_size: int
    eps: float = 1e-5

    @nn.compact
    def __call__(self, image, text):
        e, n = text.shape[-1], self.depth
        heads = max(1, e // 64)
        image = image.astype(text.dtype)

        def norm(name, x):
            return LayerNorm(self.eps, "head", name=name)(x)

        x = CrossAttention(heads, n, name="cross_attn")(norm("ln_pre_t", text), norm("ln_pre_i", image))
        for i in range(n):
            block = Block(heads, 4 * e, n, "quick_gelu", self.eps, {}, "head", name=f"cross_block_{i}")
            x = block(x)
        x = norm("ln_post", x)
        x = quick_gelu(Dense(e, (2 * e) ** -0.5, (), "head", name="mlm_head_dense")(x))
        x = norm("mlm_head_ln", x)
        return Dense(self.vocab_size, (2 * n * e) ** -0.5, (), "head", name="mlm_head_fc")(x)
