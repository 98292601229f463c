"""The two towers of CLIP and SigLIP, and the pure functions through which the rest of the package uses them.

Variables are nested dicts: collection -> tower (`visual`, `text`) -> `block_i` -> layer -> array. The
collection `params` is CLIP itself; the parts of a method live in collections of their own (`moe`, `adapter`).
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from tpr_jax.models.block import token_at
from tpr_jax.models.config import IMAGE_MEAN, IMAGE_STD, NO_HEADS, ClipConfig, Heads
from tpr_jax.models.heads import Classifier, MaskedWords, Temperature
from tpr_jax.models.layers import LayerNorm, normal, zeros
from tpr_jax.models.matmul import all_gather_weight, dense
from tpr_jax.models.methods import Method, check
from tpr_jax.models.petl.moe import batch_statistics
from tpr_jax.models.petl.prompts import append_tokens, insert_slots, replace_tokens
from tpr_jax.models.petl_config import text_tokens
from tpr_jax.models.petl_modules import PromptPart
from tpr_jax.models.pooling import AttentionPool, Projection
from tpr_jax.models.positions import end_positions, mark_words, read_positions
from tpr_jax.models.transformer import run_blocks


def normalize(
    images: UInt8[Array, "b h w 3"], mean: Sequence[float] = IMAGE_MEAN, std: Sequence[float] = IMAGE_STD
) -> Float[Array, "b h w 3"]:
    """Converts pixels of 0..255 to zero-mean, unit-variance float32, by default with CLIP's statistics.

    Args:
      images: the pixels.
      mean: the mean of each channel, in 0..1.
      std: the standard deviation of each channel, in 0..1.
    """
    return (images.astype(jnp.float32) / 255.0 - jnp.array(mean, jnp.float32)) / jnp.array(std, jnp.float32)


def extract_patches(images: Float[Array, "b h w 3"], size: int) -> Float[Array, "b n p"]:
    """Extracts non-overlapping patches row by row, each flattened in the order (y, x, channel).

    As in a convolution with this stride, rows at the bottom and columns at the right that do not fill a patch
    are left out.
    """
    b, h, w, c = images.shape
    rows, columns = h // size, w // size
    images = images[:, : rows * size, : columns * size]
    patches = images.reshape(b, rows, size, columns, size, c).swapaxes(2, 3)
    return patches.reshape(b, rows * columns, size * size * c)


class PatchEmbedding(nn.Module):
    """The patch convolution as a single matmul; leftover pixels that do not fill a patch are ignored."""

    width: int
    size: int
    use_bias: bool

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n d"]:
        """Returns one token for each patch."""
        shape = (self.size, self.size, 3, self.width)
        kernel = self.param("kernel", normal((3 * self.size**2) ** -0.5), shape)
        rows, columns = (side // self.size * self.size for side in images.shape[1:3])
        patches = extract_patches(images[:, :rows, :columns], self.size)
        bias = self.param("bias", zeros, (self.width,)) if self.use_bias else None
        return dense(patches, kernel.reshape(-1, self.width), bias)


def select_tokens(
    x: Float[Array, "b n d"], patches: Int[Array, "b kept"], has_class_token: bool
) -> Float[Array, "b m d"]:
    """Returns the tokens of some patches, and the class token if there is one."""
    if has_class_token:
        patches = jnp.pad(patches + 1, ((0, 0), (1, 0)))
    return jnp.take_along_axis(x, patches[:, :, None], axis=1)


class VisionTower(nn.Module):
    """The vision transformer; `remat` and `scan` are as in `build`.

    CLIP reads the feature at a class token. SigLIP has none, and pools all patches by attention.
    """

    config: ClipConfig
    method: Method
    dtype: jnp.dtype
    remat: str
    scan: bool

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "b h w 3"],
        prompts: Float[Array, "k p d"] | None = None,
        all_tokens: bool = False,
        patches: Int[Array, "b kept"] | None = None,
    ) -> Float[Array, "*tokens e"]:
        """Encodes images.

        Args:
          images: normalized pixels.
          prompts: tokens that are appended to the sequence and replaced before each of the first k blocks.
          all_tokens: whether to return the image's feature and those of the other tokens.
          patches: the patches that remain of each image, row by row from 0; None keeps all.

        Returns:
          The features [b, e], or with `all_tokens` [b, n, e]: the image's feature, then those of the
          patches, and in CLIP those of the prompts. SigLIP's feature of a patch is what it pools from this
          patch alone.
        """
        c, d = self.config, self.config.vision_width
        x = PatchEmbedding(d, c.patch_size, not c.has_class_token, name="conv1")(images.astype(self.dtype))
        if c.has_class_token:
            cls = self.param("class_embedding", normal(d**-0.5), (d,)).astype(self.dtype)
            x = jnp.concatenate([jnp.broadcast_to(cls, (x.shape[0], 1, d)), x], axis=1)
        positions = self.param("positional_embedding", normal(d**-0.5), (c.vision_positions, d))
        x = x + positions.astype(self.dtype)
        if patches is not None:
            x = select_tokens(x, patches, c.has_class_token)
        count = x.shape[1]
        if prompts is not None:
            x = append_tokens(x, prompts[0])
        if c.has_class_token:
            x = LayerNorm(c.layer_norm_eps, name="ln_pre")(x)
        # The feature of a class token is that of token 0, so only this token passes through the last layers.
        one = c.has_class_token and not all_tokens
        x = run_blocks(self, "vision", x, None, prompts=prompts, start=count, last=one)
        x = LayerNorm(c.layer_norm_eps, name="ln_post")(x[:, 0] if one else x)
        if c.has_class_token:
            return dense(x, self.param("proj", normal(d**-0.5), (d, c.embed_dim)))
        pool = AttentionPool(c.vision_heads, c.vision_mlp, c.act, c.layer_norm_eps, name="pool")
        return pool(x[:, :count], all_tokens)  # as in the backbone's own training: without prompts


class TextTower(nn.Module):
    """The text transformer; `remat` and `scan` are as in `build`.

    CLIP's attention is causal and reads the feature at end of text. SigLIP's is not, and reads it at the last
    position of the padded text.
    """

    config: ClipConfig
    method: Method
    dtype: jnp.dtype
    remat: str
    scan: bool

    @nn.compact
    def __call__(
        self,
        ids: Int[Array, "b l"],
        prompts: Float[Array, "k p d"] | None = None,
        all_tokens: bool = False,
    ) -> Float[Array, "*tokens e"]:
        """Encodes texts.

        Args:
          ids: token ids.
          prompts: tokens that are replaced before each of the first k blocks. In CLIP they follow
            start-of-text. In SigLIP, whose attention is not causal, they follow the text and take no
            positions.
          all_tokens: whether to return the features of all tokens.

        Returns:
          The features [b, e], or those of all tokens [b, m, e], m counting the prompts.
        """
        c, d = self.config, self.config.text_width
        end = read_positions(jnp.asarray(ids), c)
        if inserts := prompts is not None and c.causal:
            ids, end = insert_slots(ids, prompts.shape[1], c.context_length, end)
        length = ids.shape[1]
        embedding = self.param("token_embedding", normal(0.02), (c.vocab_size, d))
        positions = self.param("positional_embedding", normal(0.01), (c.context_length, d))
        x = all_gather_weight(embedding.astype(self.dtype))[ids]
        if prompts is not None and inserts:
            x = replace_tokens(x, prompts[0], 1)
        x = x + positions[:length].astype(self.dtype)
        if prompts is not None and not inserts:
            x = append_tokens(x, prompts[0])
        mask = jnp.triu(jnp.full((length, length), -jnp.inf, jnp.float32), 1) if c.causal else None
        start = 1 if c.causal else length
        x = run_blocks(self, "text", x, mask, prompts=prompts, start=start, last=not all_tokens, index=end)
        x = LayerNorm(c.layer_norm_eps, name="ln_final")(x if all_tokens else x[:, 0])
        if c.causal:
            return dense(x, self.param("proj", normal(d**-0.5), (d, c.embed_dim)))
        return Projection(c.embed_dim, name="proj")(x)


class Clip(nn.Module):
    """Both towers with a method's parts in their slots, its prompts, and the heads of the losses."""

    config: ClipConfig
    method: Method
    heads: Heads
    dtype: jnp.dtype = jnp.dtype("float32")
    remat: str = "none"
    scan: bool = False

    def setup(self):
        """Creates the submodules."""
        c = self.config
        self.visual = VisionTower(c, self.method, self.dtype, self.remat, self.scan)
        self.text = TextTower(c, self.method, self.dtype, self.remat, self.scan)
        if spec := self.method.prompts:
            depth = spec.depth or min(c.vision_layers, c.text_layers)
            self.prompts = PromptPart(spec, depth, (c.vision_width, c.text_width))
        if self.heads.num_classes:
            self.classifier = Classifier(self.heads.num_classes)
        if self.heads.mlm_depth:
            self.masked_words = MaskedWords(self.heads.mlm_depth, c.vocab_size)
        if self.heads.temperature:
            self.temperature = Temperature(self.heads.temperature)

    def encode_image(
        self,
        images: Float[Array, "b h w 3"],
        all_tokens: bool = False,
        patches: Int[Array, "b kept"] | None = None,
    ):
        """Returns the features of normalized images, see `VisionTower`."""
        prompts = self.prompts()[0] if self.method.prompts else None
        return self.visual(images, prompts, all_tokens, patches)

    def encode_text(self, ids: Int[Array, "b l"], all_tokens: bool = False):
        """Returns the features of texts, see `TextTower`."""
        return self.text(ids, self.prompts()[1] if self.method.prompts else None, all_tokens)

    def predict_words(self, image_tokens: Float[Array, "b n e"], ids: Int[Array, "b l"]):
        """Returns the logits of the words of masked texts, see `MaskedWords`."""
        return self.masked_words(image_tokens, self.encode_text(ids, all_tokens=True))

    def __call__(self, images: Float[Array, "b h w 3"], ids: Int[Array, "b l"]):
        """Applies all submodules, so that `init` creates all variables; returns both towers' features."""
        image_tokens = self.encode_image(images, all_tokens=True)
        feats = image_tokens[:, 0], self.encode_text(ids)
        if self.heads.num_classes:
            self.classifier(feats[0].astype(jnp.float32))
        if self.heads.mlm_depth:
            self.predict_words(image_tokens, ids)
        if self.heads.temperature:
            self.temperature()
        return feats


def declare(config: ClipConfig, method: Method, heads: Heads = NO_HEADS) -> dict:
    """Returns the variables that `build(...)["init"]` creates, as shapes and types instead of arrays.

    Raises:
      UserError: a part of the method does not fit towers of these sizes.
    """
    return jax.tree.map(lambda leaf: leaf, _declared(config, method, heads))  # a tree of the caller's own


@functools.lru_cache(maxsize=32)  # tracing all blocks takes up to a second
def _declared(config: ClipConfig, method: Method, heads: Heads) -> dict:
    return jax.eval_shape(build(config, method, heads=heads)["init"], jax.random.key(0))


def build(
    config: ClipConfig,
    method: Method,
    dtype: str = "float32",
    heads: Heads = NO_HEADS,
    remat: str = "none",
    scan_layers: bool = False,
) -> dict:
    """Builds the pure functions of a model.

    Args:
      config: the sizes of the CLIP or SigLIP.
      method: the parts and prompts.
      dtype: the dtype of the computation, "float32" or "bfloat16".
      heads: the heads of the losses.
      remat: what the backward pass recomputes, a key of `transformer.REMAT`.
      scan_layers: whether to scan over equal blocks instead of unrolling them.

    Returns:
      A dict of functions:

      `init(key)` returns the initial variables.

      `encode_image(variables, images)` takes uint8 pixels, which it normalizes with the config's mean and
      standard deviation, or normalized floats [b, h, w, 3]; `encode_text(variables, ids)` takes int32 ids
      [b, l]. Both return the unnormalized float32 features [b, e] and a list of routing statistics, a dict
      for each mixture. With `all_tokens=True` they return the features of all tokens, [b, n, e].
      `encode_image(variables, images, patches=index)` reads only the patches `index`, int32 [b, kept], of
      each image (FLIP, CVPR 2023).

      `predict_words(variables, image_tokens, ids)` returns the logits [b, m, vocabulary] at the positions of
      the text tower's sequence, prompts among them; it needs the head of the loss "mlm".

      `place_labels(ids, labels)` moves the labels [b, l] of ids to those positions, [b, m].

      `select_words(tokens, ids)` returns, of the features of all tokens [b, m, e], that of the text
      [b, e], and 1 for each token that is a word, else 0, [b, m]. `select_patches(tokens, patches)` returns
      those of the patches that `encode_image` read, [b, kept, e].

    Raises:
      UserError: a part of the method does not fit towers of these sizes.
    """
    check(method, config)
    model = Clip(config, method, heads, jnp.dtype(dtype), remat, scan_layers)

    def init(key):
        images = jnp.zeros((1, *config.image_size, 3))
        length = config.context_length - (text_tokens(method.prompts) if config.causal else 0)
        variables = model.init(key, images, jnp.zeros((1, length), jnp.int32))
        return {name: tree for name, tree in variables.items() if name != "routing"}

    def run(name, variables, *inputs, **settings):
        out, state = model.apply(variables, *inputs, method=name, mutable=["routing"], **settings)
        sown = jax.tree.leaves(state.get("routing", {}), is_leaf=lambda x: "chosen" in x)
        return out.astype(jnp.float32), [batch_statistics(rows) for rows in sown]

    def encode_image(variables, images, all_tokens=False, patches=None):
        if images.dtype == jnp.uint8:
            images = normalize(images, config.image_mean, config.image_std)
        return run("encode_image", variables, images, all_tokens=all_tokens, patches=patches)

    def encode_text(variables, ids, all_tokens=False):
        return run("encode_text", variables, ids, all_tokens=all_tokens)

    def place_labels(ids, labels):
        if not (count := text_tokens(method.prompts)):
            return labels
        if not config.causal:  # the prompts follow the text
            return jnp.pad(labels, ((0, 0), (0, count)))
        # End-of-text has no label, so none is added where it replaces a word.
        return insert_slots(labels, count, config.context_length, end_positions(ids, config.eot_id))[0]

    def select_words(tokens, ids):
        words = place_labels(ids, mark_words(ids, config).astype(jnp.int32))
        end = read_positions(ids, config)
        if config.causal:  # the prompts come before the end
            end = jnp.minimum(end + text_tokens(method.prompts), tokens.shape[1] - 1)
        return token_at(tokens, end)[:, 0], words

    def select_patches(tokens, patches=None):
        return tokens[:, 1 : 1 + (config.num_patches if patches is None else patches.shape[1])]

    return {
        "init": init,
        "encode_image": encode_image,
        "encode_text": encode_text,
        "place_labels": place_labels,
        "select_words": select_words,
        "select_patches": select_patches,
        "predict_words": lambda variables, *inputs: run("predict_words", variables, *inputs)[0],
    }
