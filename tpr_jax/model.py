"""A model ready for use: pictures and words in, features out.

model = tpr_jax.from_pretrained("openai/clip-vit-base-patch16", image_size=(384, 128))
scores = model.encode_texts(["a woman in a red coat"]) @ model.encode_images(["a.jpg", "b.jpg"]).T
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from tpr_jax.data.images import read_image, resize
from tpr_jax.data.tokenizer import Tokenizer, clip_tokenizer, folder_tokenizer
from tpr_jax.errors import UserError
from tpr_jax.models import clip
from tpr_jax.models.config import ClipConfig
from tpr_jax.models.methods import Method, zero_shot
from tpr_jax.weights.clip import IMAGE_MEAN, IMAGE_STD, find_clip, image_settings, load_clip, save_clip
from tpr_jax.weights.files import write_whole
from tpr_jax.weights.parts import flatten, read_parts, write_parts

Picture = str | os.PathLike | Image.Image | np.ndarray


@dataclass(frozen=True)
class Model:
    """CLIP with a method's parts; `make_model` and `from_pretrained` build it."""

    config: ClipConfig
    method: Method
    variables: dict  # collections of arrays; `params` is CLIP itself
    tokenizer: Tokenizer | None
    source: str  # where it came from, for messages
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    encoders: tuple[Callable, Callable]  # (variables, rows) -> features, of images and of ids

    def encode_images(self, images: Sequence[Picture], batch_size: int = 32) -> Float[np.ndarray, "n e"]:
        """L2-normalised float32 features of paths, PIL images or uint8 arrays `[h, w, 3]` of any size.

        Each picture is resized whole to the model's image size, as person retrieval does: no centre crop.

        Raises:
          UserError: a picture cannot be read; the message names it.
        """

        def rows(start: int) -> np.ndarray:
            pictures = [read_image(image) for image in images[start : start + batch_size]]
            pixels = np.stack([resize(picture, self.config.image_size) for picture in pictures])
            return (pixels.astype(np.float32) / 255 - np.float32(self.mean)) / np.float32(self.std)

        return _unit(self._encode(self.encoders[0], rows, len(images), batch_size))

    def encode_texts(self, texts: Sequence[str], batch_size: int = 64) -> Float[np.ndarray, "n e"]:
        """L2-normalised float32 features of texts; too long a text is cut.

        Raises:
          UserError: the model came without a tokenizer, or with one of another vocabulary.
        """
        if self.tokenizer is None:
            raise UserError(
                f"{self.source}: has no tokenizer.json, so it cannot read texts; put it beside the weights"
            )
        ids = self.tokenizer(texts)
        if ids.size and ids.max() >= self.config.vocab_size:
            raise UserError(
                f"{self.source}: its tokenizer gives id {ids.max()}, but its text tower knows "
                f"{self.config.vocab_size} ids; use the tokenizer.json that belongs to the weights"
            )
        return _unit(self._encode(self.encoders[1], lambda i: ids[i : i + batch_size], len(ids), batch_size))

    def features_from_arrays(
        self, images: Float[np.ndarray, "n h w 3"], ids: Int[np.ndarray, "m l"]
    ) -> tuple[Float[np.ndarray, "n e"], Float[np.ndarray, "m e"]]:
        """Unnormalised float32 features of normalised images and token ids, each array as one batch."""
        if tuple(images.shape[1:]) != (*self.config.image_size, 3):
            raise ValueError(f"images of shape {images.shape}, expected [n, *{self.config.image_size}, 3]")
        image_feats = self.encoders[0](self.variables, np.asarray(images, np.float32))
        text_feats = self.encoders[1](self.variables, np.asarray(ids, np.int32))
        return np.asarray(image_feats), np.asarray(text_feats)

    def num_params(self) -> dict[str, int]:
        """How many numbers the method trains, and how many there are in all (without the temperature)."""
        sizes = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in self.variables.items()}
        trainable = sum(size for name, size in sizes.items() if name in self.method.trainable)
        return {"trainable": trainable, "total": sum(sizes.values())}

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes a folder that `from_pretrained` reads; CLIP's part of it is in Hugging Face's format.

        Raises:
          UserError: the folder cannot be written.
        """
        params = jax.tree.map(np.asarray, self.variables["params"])
        save_clip(folder, self.config, params, mean=self.mean, std=self.std)
        if self.tokenizer is not None:
            write_whole(Path(folder) / "tokenizer.json", self.tokenizer.backend.save)
        parts = {name: tree for name, tree in self.variables.items() if name != "params"}
        if parts:
            write_parts(folder, self.method, parts)

    def _encode(self, encoder: Callable, rows: Callable, count: int, batch_size: int) -> np.ndarray:
        feats = [np.zeros((0, self.config.embed_dim), np.float32)]
        for start in range(0, count, batch_size):
            batch = rows(start)
            # The last batch is filled up: another size would be compiled anew.
            fill = batch_size - len(batch) if count > batch_size else 0
            padded = np.concatenate([batch, np.zeros_like(batch, shape=(fill, *batch.shape[1:]))])
            feats.append(np.asarray(encoder(self.variables, padded))[: len(batch)])
        return np.concatenate(feats)


def from_pretrained(
    path_or_hub_id: str | os.PathLike, image_size: tuple[int, int] | None = None, dtype: str = "float32"
) -> Model:
    """Loads a model that `save_pretrained` wrote, or a plain CLIP as the zero-shot model.

    Takes a folder in Hugging Face's CLIP format, an id on their hub, or a file of weights under OpenAI's
    names (which brings CLIP's own tokenizer). `image_size` is (height, width), by default the folder's own;
    the towers compute in `dtype`. Without a tokenizer in the folder only `encode_texts` complains.

    Raises:
      UserError: nothing is there, or what is there does not fit; the message names the file and the weight.
    """
    path = find_clip(path_or_hub_id)
    config, params = load_clip(path, image_size)
    settings = image_settings(path) if path.is_dir() else {"mean": IMAGE_MEAN, "std": IMAGE_STD}
    method, parts = (read_parts(path) if path.is_dir() else None) or (zero_shot(), {})
    return make_model(
        config,
        method,
        {"params": params, **parts},
        tokenizer=_find_tokenizer(path, config),
        source=str(path_or_hub_id),
        mean=settings["mean"],
        std=settings["std"],
        dtype=dtype,
    )


def make_model(
    config: ClipConfig,
    method: Method,
    variables: dict,
    *,
    tokenizer: Tokenizer | None = None,
    source: str = "the model",
    mean: tuple[float, float, float] = IMAGE_MEAN,
    std: tuple[float, float, float] = IMAGE_STD,
    dtype: str = "float32",
) -> Model:
    """A model of these sizes, this method and these arrays (nested dicts, a collection each).

    Raises:
      UserError: an array of the method is missing, has no place or another shape than the method's.
    """
    functions = clip.build(config, method, dtype)
    _check_shapes(jax.eval_shape(functions["init"], jax.random.key(0)), variables, source)
    image, text = functions["encode_image"], functions["encode_text"]
    encoders = (jax.jit(lambda v, x: image(v, x)[0]), jax.jit(lambda v, x: text(v, x)[0]))
    return Model(config, method, jax.device_put(variables), tokenizer, source, mean, std, encoders)


def _check_shapes(expected: dict, found: dict, source: str) -> None:
    expected, found = flatten(expected), flatten(found)
    for path in sorted(expected.keys() | found.keys()):
        want = list(expected[path].shape) if path in expected else "nothing"
        have = list(np.shape(found[path])) if path in found else "nothing"
        if want != have:
            raise UserError(
                f"{source}: weight {path!r}: expected {want}, found {have}; "
                "load it with the method and sizes it was saved with"
            )


def _find_tokenizer(path: Path, config: ClipConfig) -> Tokenizer | None:
    if path.is_dir():
        has_one = (path / "tokenizer.json").is_file()
        return folder_tokenizer(path, config.context_length) if has_one else None
    return matching_tokenizer(config)


def matching_tokenizer(config: ClipConfig) -> Tokenizer | None:
    """CLIP's own tokenizer where the vocabulary has its size, else none."""
    own = clip_tokenizer(config.context_length)
    return own if own.vocab_size == config.vocab_size else None


def _unit(feats: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n e"]:
    return feats / np.maximum(np.linalg.norm(feats, axis=1, keepdims=True), 1e-12)
