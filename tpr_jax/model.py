"""A retrieval model for inference: images and texts in, L2-normalized features out.

model = tpr_jax.from_pretrained("openai/clip-vit-base-patch16", image_size=(384, 128))
scores = model.encode_texts(["a woman in a red coat"]) @ model.encode_images(["a.jpg", "b.jpg"]).T
"""

import dataclasses
import functools
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
from tpr_jax.data.tokenizer import Tokenizer, clip_tokenizer
from tpr_jax.errors import ArgumentError, UserError
from tpr_jax.models.casting import inference_variables
from tpr_jax.models.config import DTYPES, NO_HEADS, ClipConfig, Heads
from tpr_jax.models.methods import Method, check, zero_shot
from tpr_jax.models.positions import read_positions
from tpr_jax.optim import split_model
from tpr_jax.perf import dtypes
from tpr_jax.perf.batches import images_at_once
from tpr_jax.perf.stored_programs import StoredProgram
from tpr_jax.perf.xla_options import compiler_options
from tpr_jax.utils.normalize import l2_normalize
from tpr_jax.utils.trees import flatten
from tpr_jax.weights import arguments
from tpr_jax.weights.backbone import Backbone, find, read_tokenizer
from tpr_jax.weights.clip import load_clip, read_text_length
from tpr_jax.weights.folder_format import is_open_clip
from tpr_jax.weights.load_adapter import load_adapter, read_adapter_config
from tpr_jax.weights.merge import merge
from tpr_jax.weights.save_adapter import check_not_own, save_adapter

_HERE = Path(__file__).parent
# The source that the encoders are traced from, and that chooses how they are compiled.
ENCODER_SOURCES = tuple(
    _HERE / name for name in ("model.py", "models", "perf/xla_options.py", "utils/cpu.py")
)

ImageSource = str | os.PathLike | Image.Image | np.ndarray | Crop | Stored


@dataclass(frozen=True)
class Model:
    """CLIP with the adapters of a method. Build one with `from_pretrained` or `make_model`.

    Attributes:
      config: sizes of the two towers and the image normalization.
      method: what is trained, such as adapters beside CLIP's own weights.
      variables: collections of arrays; `params` is CLIP itself, the others belong to the method.
      tokenizer: turns texts into token ids; None if the model came without one.
      source: where the model came from, for error messages.
      inference_variables: `variables` as the encoders take them, with frozen weights cast to `dtype`.
      encoders: `(inference_variables, rows) -> features`, for images and for token ids.
      backbone: where `params`, except for the tuned leaves, can be loaded from; None if nowhere.
      dtype: the type that the towers compute in, "float32" or "bfloat16".
      merged_from: the backbone of the model that this one was merged from, if merging changed its weights.
        It is not saved to: adapters refer to it.
    """

    config: ClipConfig
    method: Method
    variables: dict
    tokenizer: Tokenizer | None
    source: str
    inference_variables: dict
    encoders: tuple[Callable, Callable]
    backbone: Backbone | None = None
    dtype: str = "float32"
    merged_from: Backbone | None = None

    def __repr__(self) -> str:
        """Describes the model in one line, without its arrays."""
        backbone = None if self.backbone is None else self.backbone.pinned
        return (
            f"Model(source={self.source!r}, method={self.method.name!r}, backbone={backbone!r}, "
            f"image_size={self.config.image_size}, dtype={self.dtype!r}, num_params={self.num_params()})"
        )

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean of the red, green and blue channels, for pixels in [0, 1]."""
        return self.config.image_mean

    @property
    def std(self) -> tuple[float, float, float]:
        """Standard deviation of the red, green and blue channels, for pixels in [0, 1]."""
        return self.config.image_std

    def normalize(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n h w 3"]:
        """Normalizes uint8 pixels with the model's mean and standard deviation."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return (pixels.astype(np.float32) / 255 - mean) / std

    def encode_images(
        self, images: Sequence[ImageSource] | np.ndarray, batch_size: int | None = None
    ) -> Float[np.ndarray, "n e"]:
        """Computes the L2-normalized float32 features of images.

        Each image is resized to the model's image size as a whole, as in person retrieval: no center crop.

        Args:
          images: paths, PIL images or uint8 arrays `[h, w, 3]`, of any size.
          batch_size: how many images to encode at a time; by default what is fast on this machine.

        Raises:
          UserError: an image cannot be read, or an argument is invalid; the message names it.
        """
        listed = arguments.check_images(images)
        size = images_at_once(self.config) if batch_size is None else arguments.check_batch_size(batch_size)

        def load_batch(start: int) -> np.ndarray:
            indices = range(start, min(start + size, len(listed)))
            return self.normalize(np.stack([_read_image(listed, i, self.config.image_size) for i in indices]))

        return l2_normalize(self._encode(self.encoders[0], load_batch, len(listed), size))

    def encode_texts(self, texts: Sequence[str], batch_size: int = 64) -> Float[np.ndarray, "n e"]:
        """Computes the L2-normalized float32 features of texts. A text that is too long is truncated.

        Raises:
          UserError: the model has no tokenizer, or one of another vocabulary, or an argument is invalid.
        """
        texts, batch_size = arguments.check_texts(texts), arguments.check_batch_size(batch_size)
        if self.tokenizer is None:
            raise UserError(
                f"{self.source}: has no tokenizer.json, so it cannot read texts; put it beside the weights"
            )
        ids = self.tokenizer(texts)
        if ids.size and ids.max() >= self.config.vocab_size:
            raise UserError(
                f"{self.source}: its tokenizer gives id {ids.max()}, but its text tower has "
                f"{self.config.vocab_size} ids; use the tokenizer.json that belongs to the weights"
            )
        ends = read_positions(ids, self.config)
        order, inverse_order = sort_by_length(ends)

        def load_batch(start: int) -> np.ndarray:
            rows = order[start : start + batch_size]
            return trim_padding(ids[rows], ends[rows])

        feats = self._encode(self.encoders[1], load_batch, len(ids), batch_size)
        return l2_normalize(feats[inverse_order])

    def features_from_arrays(
        self, images: Float[np.ndarray, "n h w 3"], ids: Int[np.ndarray, "m l"]
    ) -> tuple[Float[np.ndarray, "n e"], Float[np.ndarray, "m e"]]:
        """Computes the unnormalized float32 features of normalized images and token ids, one batch each.

        Raises:
          ArgumentError: an array has another shape or type, a value is not finite, or an id is outside the
            vocabulary.
        """
        images = arguments.check_image_array(images, self.config.image_size)
        ids = arguments.check_ids(ids, self.config.vocab_size, self.config.context_length)
        if not self.config.causal and ids.shape[1] < self.config.context_length:
            raise ArgumentError(
                f"ids of shape {ids.shape}, expected [m, {self.config.context_length}]: SigLIP's texts are "
                "padded to the full length"
            )
        image_feats = self.encoders[0](self.inference_variables, images)
        text_feats = self.encoders[1](self.inference_variables, ids)
        return np.asarray(image_feats), np.asarray(text_feats)

    def num_params(self) -> dict[str, int]:
        """Counts the `trainable` parameters of the method and the `total`, without the temperature."""
        trainable, frozen = (
            sum(leaf.size for leaf in jax.tree.leaves(tree))
            for tree in split_model(self.variables, self.method)
        )
        return {"trainable": trainable, "total": trainable + frozen}

    def save_pretrained(
        self,
        folder: str | os.PathLike,
        *,
        results: Mapping | None = None,
        training: Mapping | None = None,
        adapted: Mapping | None = None,
    ) -> None:
        """Writes a folder that `from_pretrained` loads, with a model card.

        A model with adapters or tuned weights is saved as the trained arrays and the name and SHA-256 of its
        backbone; a backbone that cannot be loaded from elsewhere is saved too. A CLIP without adapters is
        saved as a plain Hugging Face folder. The heads of losses are not saved.

        Args:
          folder: created if missing.
          results: a run's results.json, for the model card.
          training: a run's config.json, for the model card.
          adapted: how the model was adapted without labels, for the model card and config.json.

        Raises:
          UserError: the folder cannot be written, or holds model files that no earlier save wrote, which are
            left as they are; or `results` or `training` lacks an entry that the card shows.
        """
        arguments.check_path("folder", folder)
        check_not_own(Path(folder), self.merged_from)
        save_adapter(
            folder,
            self.config,
            self.method,
            self.variables,
            backbone=self.backbone,
            tokenizer=self.tokenizer,
            results=results,
            training=training,
            adapted=adapted,
        )

    def merge(self) -> "Model":
        """Returns a model with the same features and fewer modules; `weights.merge` lists what is folded."""
        method, variables = merge(self.method, self.variables)
        params_unchanged = (
            method.tuned == self.method.tuned and variables["params"] is self.variables["params"]
        )
        merged = make_model(
            self.config,
            method,
            variables,
            tokenizer=self.tokenizer,
            source=self.source,
            dtype=self.dtype,
            backbone=self.backbone if params_unchanged else None,
        )
        origin = self.merged_from if params_unchanged else self.backbone or self.merged_from
        return dataclasses.replace(merged, merged_from=origin)

    def _encode(
        self, encoder: Callable, load_batch: Callable, count: int, batch_size: int
    ) -> Float[np.ndarray, "n e"]:
        feats = [np.zeros((0, self.config.embed_dim), np.float32)]
        for start in range(0, count, batch_size):
            batch = load_batch(start)
            # The last batch is padded: another shape would be compiled again.
            padding = batch_size - len(batch) if count > batch_size else 0
            padded = np.concatenate([batch, np.zeros_like(batch, shape=(padding, *batch.shape[1:]))])
            feats.append(np.asarray(encoder(self.inference_variables, padded))[: len(batch)])
        return np.concatenate(feats)


def from_pretrained(
    path_or_hub_id: str | os.PathLike,
    image_size: Sequence[int] | None = None,
    dtype: str = "float32",
    backbone: str | os.PathLike | None = None,
    act: str | None = None,
    heads: tuple[int, int] | None = None,
    *,
    image_mean: Sequence[float] | None = None,
    image_std: Sequence[float] | None = None,
    check_shapes: bool = True,
) -> Model:
    """Loads a model that `save_pretrained` wrote, or a plain CLIP as the zero-shot model.

    Args:
      path_or_hub_id: a folder of either kind, a run's folder, an id on the Hugging Face hub with an optional
        revision (`owner/name@revision`), the bundled `clip-mini`, or a weights file with OpenAI's names
        (used with CLIP's own tokenizer). Without a tokenizer, only `encode_texts` fails.
      image_size: (height, width) in pixels; by default the folder's own.
      dtype: the type that the towers compute in: "float32", whose features equal those of other programs to
        about 1e-6, "bfloat16", or "auto" for the faster one on this machine.
      backbone: the folder or hub id of a saved model's backbone, if it is not available under the name that
        the model was trained with. Its weights must be identical.
      act: "gelu" or "quick_gelu". A weights file does not record its activation and heads; OpenAI's own
        release is recognized, other files need `act` and `heads`. For a plain CLIP folder they override its
        config.json.
      heads: the number of attention heads of the vision and of the text tower.
      image_mean: the mean of the red, green and blue channels, for pixels in [0, 1]. For a weights file,
        which does not record it, CLIP's is the default. For a plain CLIP folder it overrides the folder's.
      image_std: their standard deviation, by the same rule.
      check_shapes: whether to check the shape of each array, for which both towers are traced. Files that
        were loaded before, as their checksum tells, need no check.

    Raises:
      UserError: there is no model, or it does not fit the arguments; the message names the file and weight.
    """
    path_or_hub_id = arguments.check_path("path_or_hub_id", path_or_hub_id)
    image_size = arguments.check_image_size(image_size)
    dtype = dtypes.resolve(arguments.check_dtype(dtype, (*DTYPES, dtypes.AUTO)))
    act, heads = arguments.check_act(act), arguments.check_heads(heads)
    mean, std = (
        arguments.check_channels(name, values)
        for name, values in (("image_mean", image_mean), ("image_std", image_std))
    )
    if backbone is not None:
        arguments.check_path("backbone", backbone)
    location = find(path_or_hub_id)
    adapter_config = read_adapter_config(location.path) if location.path.is_dir() else None
    if adapter_config is not None:
        recorded = {"act": act, "heads": heads, "image_mean": mean, "image_std": std}
        for name, value in recorded.items():
            if value is not None:
                raise UserError(f"{path_or_hub_id}: records its own {name}: leave out {name}={value!r}")
        config, variables, tokenizer, base = load_adapter(location.path, adapter_config, image_size, backbone)
        return make_model(
            config,
            adapter_config.method,
            variables,
            tokenizer=tokenizer,
            source=str(path_or_hub_id),
            dtype=dtype,
            backbone=base,
            check_shapes=check_shapes,
        )
    if backbone is not None:
        raise UserError(f"{path_or_hub_id}: is a complete CLIP: leave out backbone={str(backbone)!r}")
    config, params = load_clip(location.path, image_size, act, heads, image_mean=mean, image_std=std)
    return make_model(
        config,
        zero_shot(),
        {"params": params},
        tokenizer=_find_tokenizer(location.path, config),
        source=str(path_or_hub_id),
        dtype=dtype,
        backbone=location,
        check_shapes=check_shapes,
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
    check_shapes: bool = True,
) -> Model:
    """Builds a model from its sizes, its method and its arrays.

    Args:
      config: sizes of the two towers.
      method: the method whose collections are in `variables`.
      variables: nested dicts of arrays, one collection each.
      tokenizer: needed by `encode_texts` only.
      source: where the model came from, for error messages.
      mean: replaces the config's image mean.
      std: replaces the config's image standard deviation.
      dtype: the type that the towers compute in.
      heads: the heads of losses that `variables` holds.
      backbone: where `params`, except for the leaves that the method tunes, came from. Without one,
        `save_pretrained` saves all of CLIP.
      check_shapes: whether to check the shape of each array.

    Raises:
      UserError: an array is missing, unexpected or misshapen, or an argument is invalid.
    """
    arguments.check_type("config", config, ClipConfig, "a ClipConfig of models.config")
    arguments.check_type("method", method, Method, "a Method of models.methods")
    arguments.check_type("variables", variables, Mapping, "a dict of collections")
    dtype = arguments.check_dtype(dtype)
    overrides = {
        "image_mean": arguments.check_channels("mean", mean),
        "image_std": arguments.check_channels("std", std),
    }
    config = dataclasses.replace(config, **{k: v for k, v in overrides.items() if v is not None})
    check(method, config)

    if check_shapes:
        from tpr_jax.models import clip  # imports Flax, which takes a while and stored programs do not need

        _check_shapes(clip.declare(config, method, heads), variables, source)
    variables = jax.device_put(variables)
    return Model(
        config=config,
        method=method,
        variables=variables,
        tokenizer=tokenizer,
        source=source,
        # Cast once: otherwise each call casts all weights again.
        inference_variables=inference_variables(variables, dtype),
        encoders=_encoders(config, method, dtype, heads),
        backbone=backbone,
        dtype=dtype,
    )


def jit_encoder(
    encode: Callable,
    *,
    compiler_options: Mapping[str, str],
    postprocess: Callable = lambda feats: feats,
    **jit_options,
) -> jax.stages.Wrapped:
    """Jits one of the encoders of `models.clip.build`; training, search and `bench` all use this function.

    Args:
      encode: `encode_image` or `encode_text`, `(variables, rows) -> (features [b, e], routing)`.
      compiler_options: see `perf.xla_options`.
      postprocess: traced with the encoder and applied to its features.
      **jit_options: further options of `jax.jit`, such as `out_shardings`.

    Returns:
      A jitted function `(variables, rows) -> features [b, e]`, unnormalized float32 before `postprocess`.
    """

    def features(variables, rows):
        return postprocess(encode(variables, rows)[0])

    return jax.jit(features, compiler_options=dict(compiler_options), **jit_options)


@functools.lru_cache(maxsize=8)  # models that differ only in their weights share what is compiled
def _encoders(
    config: ClipConfig, method: Method, dtype: str, heads: Heads
) -> tuple[Callable[[dict, np.ndarray], jax.Array], Callable[[dict, np.ndarray], jax.Array]]:
    """Returns the encoders of images and texts, see `_encoder_for_any_batch`."""

    @functools.cache
    def functions() -> dict:
        from tpr_jax.models import clip  # imports Flax, see `make_model`

        return clip.build(config, method, dtype, heads)

    settings = repr((config, method, dtype, heads))
    return (
        _encoder_for_any_batch("encode_image", functions, dtype, settings),
        _encoder_for_any_batch("encode_text", functions, dtype, settings),
    )


def _encoder_for_any_batch(
    name: str, functions: Callable[[], dict], dtype: str, settings: str
) -> Callable[[dict, np.ndarray], jax.Array]:
    """Returns `(variables, rows) -> features`, compiled with other options for a single row, and then stored.

    Args:
      name: "encode_image" or "encode_text".
      functions: returns what `models.clip.build` returns.
      dtype: the type that the towers compute in.
      settings: all that the functions depend on.
    """

    @functools.cache
    def jitted(rows: int) -> jax.stages.Wrapped:
        options = compiler_options(dtype=dtype, rows=rows)
        return jit_encoder(functions()[name], compiler_options=options)

    single = StoredProgram(lambda: jitted(1), f"{name} {settings}", ENCODER_SOURCES)
    return lambda variables, rows: (single if len(rows) == 1 else jitted(2))(variables, rows)


def _read_image(images: Sequence[ImageSource], i: int, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Reads one image at the model's size; an error names the image."""
    try:
        return read_resized(images[i], size)
    except UserError as error:
        if isinstance(images[i], str | os.PathLike | Crop | Stored):
            raise  # the message names the file
        raise UserError(f"images[{i}]: {error}") from error


def _check_shapes(expected: dict, actual: dict, source: str) -> None:
    expected, actual = flatten(expected), flatten(actual)
    for path in sorted(expected.keys() | actual.keys()):
        want = list(expected[path].shape) if path in expected else "nothing"
        have = list(np.shape(actual[path])) if path in actual else "nothing"
        if want != have:
            raise UserError(
                f"{source}: weight {path!r}: expected {want}, found {have}; "
                "load it with the method and sizes it was saved with"
            )


def _find_tokenizer(path: Path, config: ClipConfig) -> Tokenizer | None:
    if not path.is_dir():
        return matching_tokenizer(config)
    if not (path / "tokenizer.json").is_file():
        # OpenCLIP's own tokenizer is CLIP's and has no file.
        return matching_tokenizer(config) if is_open_clip(path) else None
    return read_tokenizer(path, config, read_text_length(path, config))


def matching_tokenizer(config: ClipConfig) -> Tokenizer | None:
    """Returns CLIP's own tokenizer if the vocabulary has its size, else None."""
    tokenizer = clip_tokenizer(config.context_length)
    return tokenizer if tokenizer.vocab_size == config.vocab_size else None
