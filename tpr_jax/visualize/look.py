"""A model's features, and what happens inside it, for many photos or texts; as NumPy arrays."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from tpr_jax.data.batches import image_batches, text_batches
from tpr_jax.model import Model
from tpr_jax.models.introspect import build_inside

BATCH_SIZE = 32
SHOW = {"leave": False, "dynamic_ncols": True, "disable": None}


def photo_feats(model: Model, photos: Sequence) -> Float[np.ndarray, "n e"]:
    """L2-normalized features of photos. Raises UserError where one cannot be read."""
    size = min(BATCH_SIZE, len(photos))
    batches = image_batches(photos, model.config.image_size, size)
    total = -(-len(photos) // size)
    return np.concatenate(
        [model.encode_images(x, size)[:valid] for x, valid in tqdm(batches, "photos", total, **SHOW)]
    )


def inside_photos(model: Model, photos: Sequence) -> Iterator[tuple[UInt8[np.ndarray, "b h w 3"], dict]]:
    """Batch by batch the pixels and what `models.inside` finds in them; a last batch is cut to what is real.

    Raises UserError where a photo cannot be read.
    """
    look = jax.jit(build_inside(model.config, model.method, model.dtype)["image"])
    size = min(BATCH_SIZE, len(photos))
    batches = image_batches(photos, model.config.image_size, size)
    for pixels, valid in tqdm(batches, "photos", -(-len(photos) // size), **SHOW):
        found = look(model.variables, model.normalize(pixels))
        yield pixels[:valid], jax.tree.map(lambda leaf, n=valid: np.asarray(leaf)[:n], found)


def inside_texts(model: Model, texts: Sequence[str]) -> Iterator[tuple[np.ndarray, dict]]:
    """As `inside_photos`, of texts: their ids [b, l] instead of pixels.

    Raises UserError where the model came without a tokenizer, or with one that does not fit.
    """
    model.encode_texts(texts[:1])  # says it if it cannot read
    look = jax.jit(build_inside(model.config, model.method, model.dtype)["text"])
    ids, size = model.tokenizer(texts), min(BATCH_SIZE, len(texts))
    for rows, valid in tqdm(text_batches(ids, size), "texts", -(-len(ids) // size), **SHOW):
        found = look(model.variables, rows)
        yield rows[:valid], jax.tree.map(lambda leaf, n=valid: np.asarray(leaf)[:n], found)


def patches(model: Model, values: Float[np.ndarray, "*b n"]) -> Float[np.ndarray, "*b gh gw"]:
    """Of the vision tower's tokens those of the patches, as they lie on the photo."""
    rows, columns = model.config.grid
    return values[..., 1 : 1 + rows * columns].reshape(*values.shape[:-1], rows, columns)
