"""A model ready for use: pictures and words in, features out.

model = tpr_jax.from_pretrained("openai/clip-vit-base-patch16", image_size=(384, 128))
scores = model.encode_texts(["a woman in a red coat"]) @ model.encode_images(["a.jpg", "b.jpg"]).T
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from tpr_jax.data.bucketing import sort_by_length, trim_padding
from tpr_jax.data.images.read import Crop, Stored, read_resized
from tpr_jax.data.tokenizer import Tokenizer, clip_tokenizer, folder_tokenizer
from tpr_jax.errors import UserError
from tpr_jax.models import clip
from tpr_jax.models.config import ClipConfig
from tpr_jax.models.heads import NO_HEADS, Heads
from tpr_jax.models.methods import Method, zero_shot
from tpr_jax.optim import split_model
from tpr_jax.perf.xla_options import encoder_options
from tpr_jax.utils.trees import flatten
from tpr_jax.weights import arguments
from tpr_jax.weights.backbone import Backbone, find
from tpr_jax.weights.clip import load_clip
from tpr_jax.weights.load_adapter import load_saved, read_saved
from tpr_jax.weights.merge import merge
from tpr_jax.weights.save_adapter import write_saved

Picture = str | os.PathLike | Image.Image | np.ndarray


@dataclass(frozen=True)
class Model:
    """CLIP with a method's parts; `make_model` and `from_pretrained` build it."""

    config: ClipConfig
    method: Method
    variables: dict  # collections of arrays; `params` is CLIP itself
    tokenizer: Tokenizer | None
    source: str  # where it came from, for messages
    held: dict  # as the encoders take them: the frozen ones in the type of the computation
    encoders: tuple[Callable, Callable]  # (held, rows) -> features, of images and of ids
    backbone: Backbone | None = None  # where `params` but for the tuned leaves is to be found, if anywhere
    dtype: str = "float32"

    @property
    def mean(self) -> tuple[float, float, float]:
        """What is subtracted from pixels of 0..1: red, green, blue."""
        return self.config.image_mean

    @property
    def std(self) -> tuple[float, float, float]:
        """What they are divided by then."""
        return self.config.image_std

    def normalize(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n h w 3"]:
        """Pixels of 0..255 as `features_from_arrays` takes them."""
        return (pixels.astype(np.float32) / 255 - np.float32(self.mean)) / np.float32(self.std)

    def encode_images(self, images: Sequence[Picture], batch_size: int = 32) -> Float[np.ndarray, "n e"]:
        """L2-normalized float32 features of paths, PIL images or uint8 arrays `[h, w, 3]` of any size.

        Each picture is resized whole to the model's image size, as person retrieval does: no center crop.

        Raises:
          UserError: a picture cannot be read, or `images` or `batch_size` is unusable; the message names it.
        """
        images, batch_size = arguments.image_list(images), arguments.batch_size_of(batch_size)

        def rows(start: int) -> np.ndarray:
            pictures = [
                _read(images, i, self.config.image_size) for i in range(len(images))[start:][:batch_size]
            ]
            return self.normalize(np.stack(pictures))

        return _unit(self._encode(self.encoders[0], rows, len(images), batch_size))

    def encode_texts(self, texts: Sequence[str], batch_size: int = 64) -> Float[np.ndarray, "n e"]:
        """L2-normalized float32 features of texts; too long a text is cut.

        Raises:
          UserError: the model came without a tokenizer, or with one of another vocabulary, or `texts` or
            `batch_size` is unusable.
        """
        texts, batch_size = arguments.text_list(texts), arguments.batch_size_of(batch_size)
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
        ends = clip.end_positions(ids, self.config.eot_id)
        order, back = sort_by_length(ends)

        def rows(start: int) -> np.ndarray:
            here = order[start : start + batch_size]
            return trim_padding(ids[here], ends[here])

        feats = self._encode(self.encoders[1], rows, len(ids), batch_size)
        return _unit(feats[back])

    def features_from_arrays(
        self, images: Float[np.ndarray, "n h w 3"], ids: Int[np.ndarray, "m l"]
    ) -> tuple[Float[np.ndarray, "n e"], Float[np.ndarray, "m e"]]:
        """Unnormalized float32 features of normalized images and token ids, each array as one batch.

        Raises:
          ArgumentError: an array of another shape or type, a number that is not finite, or an id that the
            text tower does not know.
        """
        images = arguments.image_arrays(images, self.config.image_size)
        ids = arguments.id_arrays(ids, self.config.vocab_size, self.config.context_length)
        image_feats = self.encoders[0](self.held, images)
        text_feats = self.encoders[1](self.held, ids)
        return np.asarray(image_feats), np.asarray(text_feats)

    def num_params(self) -> dict[str, int]:
        """How many numbers the method trains, and how many there are in all (without the temperature)."""
        parts = split_model(self.variables, self.method)
        trainable, frozen = (sum(leaf.size for leaf in jax.tree.leaves(part)) for part in parts)
        return {"trainable": trainable, "total": trainable + frozen}

    def save_pretrained(
        self, folder: str | os.PathLike, *, results: Mapping | None = None, training: Mapping | None = None
    ) -> None:
        """Writes a folder that `from_pretrained` reads.

        Of a model with parts, or with some of CLIP's weights tuned, only what was trained, with the name and
        SHA-256 of its backbone; a backbone that is to be found nowhere else goes along. CLIP without parts
        becomes a plain Hugging Face folder. The heads of losses are left out. A model card is written beside;
        `results` is a run's results.json for it, `training` the run's config.json.

        Raises:
          UserError: the folder cannot be written, or holds files of a model that no earlier save wrote; they
            are left as they are. Or `results` or `training` lacks what the card tells.
        """
        arguments.path_argument("folder", folder)
        write_saved(
            folder,
            self.config,
            self.method,
            self.variables,
            backbone=self.backbone,
            tokenizer=self.tokenizer,
            results=results,
            training=training,
        )

    def merge(self) -> "Model":
        """A model with the same features and fewer parts: `weights.merge` says which are folded into CLIP."""
        method, variables = merge(self.method, self.variables)
        same = method.tuned == self.method.tuned and variables["params"] is self.variables["params"]
        return make_model(
            self.config,
            method,
            variables,
            tokenizer=self.tokenizer,
            source=self.source,
            dtype=self.dtype,
            backbone=self.backbone if same else None,
        )

    def _encode(self, encoder: Callable, rows: Callable, count: int, batch_size: int) -> np.ndarray:
        feats = [np.zeros((0, self.config.embed_dim), np.float32)]
        for start in range(0, count, batch_size):
            batch = rows(start)
            # The last batch is filled up: another size would be compiled anew.
            fill = batch_size - len(batch) if count > batch_size else 0
            padded = np.concatenate([batch, np.zeros_like(batch, shape=(fill, *batch.shape[1:]))])
            feats.append(np.asarray(encoder(self.held, padded))[: len(batch)])
        return np.concatenate(feats)


def from_pretrained(
    path_or_hub_id: str | os.PathLike,
    image_size: tuple[int, int] | None = None,
    dtype: str = "float32",
    backbone: str | os.PathLike | None = None,
    act: str | None = None,
    heads: tuple[int, int] | None = None,
) -> Model:
    """Loads a model that `save_pretrained` wrote, or a plain CLIP as the zero-shot model.

    Takes a folder of either kind, a run's folder, an id on Hugging Face's hub with an optional revision
    (`owner/name@revision`), the bundled `clip-mini`, or a file of weights under OpenAI's names (which brings
    CLIP's own tokenizer). `image_size` is (height, width), by default the folder's own; the towers compute in
    `dtype`, "float32" or "bfloat16". Without a tokenizer only `encode_texts` complains.

    A file of weights does not tell its activation and heads. OpenAI's own release is recognized; for others
    `act` ("gelu" or "quick_gelu") and `heads` (of the vision and the text tower) say it. For a plain CLIP
    folder they replace what its config.json says.

    The backbone of a saved model is found by the name it was trained under; `backbone`, a folder or hub id,
    says where it is instead. It has to be the very same weights.

    Raises:
      UserError: nothing is there, or what is there does not fit; the message names the file and the weight.
    """
    path_or_hub_id = arguments.path_argument("path_or_hub_id", path_or_hub_id)
    image_size, dtype = arguments.image_size_or_none(image_size), arguments.dtype_name(dtype)
    act, heads = arguments.act_or_none(act), arguments.heads_or_none(heads)
    if backbone is not None:
        arguments.path_argument("backbone", backbone)
    here = find(path_or_hub_id)
    settings = read_saved(here.path) if here.path.is_dir() else None
    if settings is not None:
        for name, value in (("act", act), ("heads", heads)):
            if value is not None:
                raise UserError(f"{path_or_hub_id}: says its {name} itself: leave out {name}={value!r}")
        config, variables, tokenizer, base = load_saved(here.path, settings, image_size, backbone)
        return make_model(
            config,
            settings["method"],
            variables,
            tokenizer=tokenizer,
            source=str(path_or_hub_id),
            dtype=dtype,
            backbone=base,
        )
    if backbone is not None:
        raise UserError(f"{path_or_hub_id}: is a whole CLIP: leave out backbone={str(backbone)!r}")
    config, params = load_clip(here.path, image_size, act, heads)
    return make_model(
        config,
        zero_shot(),
        {"params": params},
        tokenizer=_find_tokenizer(here.path, config),
        source=str(path_or_hub_id),
        dtype=dtype,
        backbone=here,
    )


def make_model(
    config: ClipConfig,
    method: Method,
    variables: dict,
    *,
    tokenizer: Tokenizer | None = None,
    source: str = "the model",
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    dtype: str = "float32",
    heads: Heads = NO_HEADS,
    backbone: Backbone | None = None,
) -> Model:
    """A model of these sizes, this method and these arrays (nested dicts, a collection each).

    `mean` and `std` replace those of the config, with which images are normalized. `backbone` says where
    `params`, but for the leaves that the method tunes, came from; without one
    `save_pretrained` takes all of CLIP along.

    Raises:
      UserError: an array of the method is missing, has no place or another shape than the method's.
    """
    own = {"image_mean": mean, "image_std": std}
    config = dataclasses.replace(config, **{key: tuple(v) for key, v in own.items() if v is not None})
    functions = clip.build(config, method, dtype, heads)
    _check_shapes(jax.eval_shape(functions["init"], jax.random.key(0)), variables, source)
    encoders = _jitted(functions["encode_image"]), _jitted(functions["encode_text"])
    variables = jax.device_put(variables)
    # Else each call would turn all weights into narrower ones again.
    held = clip.inference_variables(variables, dtype)
    return Model(config, method, variables, tokenizer, source, held, encoders, backbone, dtype)


def _read(images: Sequence[Picture], i: int, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Returns one of the images in the model's size; an error names it."""
    try:
        return read_resized(images[i], size)
    except UserError as error:
        if isinstance(images[i], str | os.PathLike | Crop | Stored):
            raise  # it names the file
        raise UserError(f"images[{i}]: {error}") from error


def _jitted(encode: Callable) -> Callable:
    """(variables, rows) -> features, compiled in one way for one row and in another for more."""
    one, more = (
        jax.jit(lambda v, x: encode(v, x)[0], compiler_options=encoder_options(rows)) for rows in (1, 2)
    )
    return lambda variables, rows: (one if len(rows) == 1 else more)(variables, rows)


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
