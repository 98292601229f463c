"""Computes a model's features and inner activations for many images or texts, as NumPy arrays."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from tpr_jax.data.batches import image_batches, text_batches
from tpr_jax.model import Model
from tpr_jax.models.introspect import build_inside
from tpr_jax.perf.batches import images_at_once

BATCH_SIZE = 32
PROGRESS_BAR = {"leave": False, "dynamic_ncols": True, "disable": None}


def encode_images(model: Model, images: Sequence) -> Float[np.ndarray, "n e"]:
    """Computes the L2-normalized features of images.

    Raises:
      UserError: an image cannot be read.
    """
    size = min(images_at_once(model.config), len(images))
    batches = image_batches(images, model.config.image_size, size)
    total = -(-len(images) // size)
    return np.concatenate(
        [model.encode_images(x, size)[:valid] for x, valid in tqdm(batches, "photos", total, **PROGRESS_BAR)]
    )


def introspect_images(model: Model, images: Sequence) -> Iterator[tuple[UInt8[np.ndarray, "b h w 3"], dict]]:
    """Yields, for each batch without its padding, the pixels and the activations of `models.introspect`.

    The pixels are those that the patches cover.

    Raises:
      UserError: an image cannot be read.
    """
    introspect = jax.jit(build_inside(model.config, model.method, model.dtype)["image"])
    height, width = (side * model.config.patch_size for side in model.config.grid)
    size = min(BATCH_SIZE, len(images))
    batches = image_batches(images, model.config.image_size, size)
    for pixels, valid in tqdm(batches, "photos", -(-len(images) // size), **PROGRESS_BAR):
        activations = introspect(model.variables, model.normalize(pixels))
        yield (
            pixels[:valid, :height, :width],
            jax.tree.map(lambda leaf, n=valid: np.asarray(leaf)[:n], activations),
        )


def introspect_texts(model: Model, texts: Sequence[str]) -> Iterator[tuple[np.ndarray, dict]]:
    """Yields, for each batch of texts, the ids [b, l] and the activations of `models.introspect`.

    Raises:
      UserError: the model has no tokenizer, or one that does not fit.
    """
    model.encode_texts(texts[:1])  # raises the error
    assert model.tokenizer is not None
    introspect = jax.jit(build_inside(model.config, model.method, model.dtype)["text"])
    ids, size = model.tokenizer(texts), min(BATCH_SIZE, len(texts))
    for rows, valid in tqdm(text_batches(ids, size), "texts", -(-len(ids) // size), **PROGRESS_BAR):
        activations = introspect(model.variables, rows)
        yield rows[:valid], jax.tree.map(lambda leaf, n=valid: np.asarray(leaf)[:n], activations)


def patch_grid(model: Model, values: Float[np.ndarray, "*b n"]) -> Float[np.ndarray, "*b gh gw"]:
    """Selects the patch tokens of the vision tower and arranges them as on the image."""
    rows, columns = model.config.grid
    first = int(model.config.has_class_token)
    return values[..., first : first + rows * columns].reshape(*values.shape[:-1], rows, columns)
