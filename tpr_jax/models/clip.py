"""CLIP's two towers, and the functions by which the rest of the project uses them.

Trees: collection -> tower (`visual`, `text`) -> `block_i` -> layer -> leaf. `params` is CLIP itself; the
parts of a method live in collections of their own (`moe`, `adapter`, ...).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from tpr_jax.models.config import IMAGE_MEAN, IMAGE_STD, ClipConfig
from tpr_jax.models.layers import Block, LayerNorm, normal
from tpr_jax.models.methods import Method
from tpr_jax.models.products import dense


def normalise(images: UInt8[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Pixels of 0..255 to CLIP's zero-mean, unit-variance float32."""
    return (images.astype(jnp.float32) / 255.0 - jnp.array(IMAGE_MEAN)) / jnp.array(IMAGE_STD)


def patches(images: Float[Array, "b h w 3"], size: int) -> Float[Array, "b n p"]:
    """Cuts images into rows of non-overlapping patches, each flattened in the order (y, x, channel)."""
    b, h, w, c = images.shape
    cut = images.reshape(b, h // size, size, w // size, size, c).swapaxes(2, 3)
    return cut.reshape(b, (h // size) * (w // size), size * size * c)


class PatchEmbedding(nn.Module):
    """The patch convolution without bias, as one product."""

    width: int
    size: int

    @nn.compact
    def __call__(self, images):
        shape = (self.size, self.size, 3, self.width)
        kernel = self.param("kernel", normal((3 * self.size**2) ** -0.5), shape)
        return dense(patches(images, self.size), kernel.reshape(-1, self.width))


class VisionTower(nn.Module):
    """Images [b, h, w, 3], normalised -> (features [b, e], routing of each block)."""

    config: ClipConfig
    method: Method
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, images):
        c, d = self.config, self.config.vision_width
        x = PatchEmbedding(d, c.patch_size, name="conv1")(images.astype(self.dtype))
        cls = self.param("class_embedding", normal(d**-0.5), (d,))
        positions = self.param("positional_embedding", normal(d**-0.5), (1 + c.grid[0] * c.grid[1], d))
        cls = jnp.broadcast_to(cls.astype(self.dtype), (x.shape[0], 1, d))
        x = jnp.concatenate([cls, x], axis=1) + positions.astype(self.dtype)
        x = LayerNorm(c.layer_norm_eps, name="ln_pre")(x)
        x, routing = _blocks(c, self.method.vision, "vision", x, None)
        # The feature is token 0, so only it passes through the last layers.
        x = LayerNorm(c.layer_norm_eps, name="ln_post")(x[:, 0])
        return dense(x, self.param("proj", normal(d**-0.5), (d, c.embed_dim))), routing


class TextTower(nn.Module):
    """Token ids [b, l] -> (features [b, e], routing of each block)."""

    config: ClipConfig
    method: Method
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, ids):
        c, d = self.config, self.config.text_width
        length = ids.shape[1]
        embedding = self.param("token_embedding", normal(0.02), (c.vocab_size, d))
        positions = self.param("positional_embedding", normal(0.01), (c.context_length, d))
        x = embedding.astype(self.dtype)[ids] + positions[:length].astype(self.dtype)
        causal = jnp.triu(jnp.full((length, length), -jnp.inf, jnp.float32), 1)
        x, routing = _blocks(c, self.method.text, "text", x, causal)
        x = x[jnp.arange(len(ids)), end_positions(ids, c.eot_id)]
        x = LayerNorm(c.layer_norm_eps, name="ln_final")(x)
        return dense(x, self.param("proj", normal(d**-0.5), (d, c.embed_dim))), routing


def _blocks(c: ClipConfig, slots, tower: str, x, mask):
    """Runs a tower's blocks; must be called inside a compact method."""
    layers, heads, width = (getattr(c, f"{tower}_{name}") for name in ("layers", "heads", "mlp"))
    routing = []
    for i in range(layers):
        block = Block(heads, width, layers, c.act, c.layer_norm_eps, slots, name=f"block_{i}")
        x, routed = block(x, mask)
        routing.append(routed)
    return x, routing


def end_positions(ids: Int[Array, "b l"], eot_id: int | None) -> Int[Array, "b"]:
    """Where each text ends: at its first end-of-text id, or at its highest id where none is named."""
    return jnp.argmax(ids if eot_id is None else ids == eot_id, axis=-1)


class Clip(nn.Module):
    """Both towers with a method's parts in their slots."""

    config: ClipConfig
    method: Method
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.visual = VisionTower(self.config, self.method, self.dtype)
        self.text = TextTower(self.config, self.method, self.dtype)

    def __call__(self, images, ids):
        return self.visual(images), self.text(ids)


def build(config: ClipConfig, method: Method, dtype: str = "float32"):
    """The pure functions of a model: a dict of `init`, `encode_image`, `encode_text`.

    `init(key)` -> variables; `encode_image(variables, images)` takes uint8 pixels or normalised floats,
    [b, h, w, 3]; `encode_text(variables, ids)` takes int32 [b, l]. Both return (features float32 [b, e],
    unnormalised, and the routing of each block, a list of dicts that is empty without a mixture).
    """
    model = Clip(config, method, jnp.dtype(dtype))

    def init(key):
        images = jnp.zeros((1, *config.image_size, 3))
        return model.init(key, images, jnp.zeros((1, config.context_length), jnp.int32))

    def encode_image(variables, images):
        if images.dtype == jnp.uint8:
            images = normalise(images)
        feats, routing = model.apply(variables, images, method=lambda m, x: m.visual(x))
        return feats.astype(jnp.float32), routing

    def encode_text(variables, ids):
        feats, routing = model.apply(variables, ids, method=lambda m, x: m.text(x))
        return feats.astype(jnp.float32), routing

    return {"init": init, "encode_image": encode_image, "encode_text": encode_text}


def hold_frozen(params: dict, dtype: str) -> dict:
    """Frozen weights in the computation's type; those of LayerNorm, which computes in float32, stay so."""

    def cast(path, leaf):
        layer = str(path[-2].key) if len(path) > 1 else ""
        return jnp.asarray(leaf, jnp.float32 if layer.startswith("ln_") else jnp.dtype(dtype))

    return jax.tree_util.tree_map_with_path(cast, params)
