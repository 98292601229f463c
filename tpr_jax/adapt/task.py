"""Loads what the steps of an adaptation share: model, photos, descriptions, optimizer, jitted functions."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import numpy as np
import optax
from jaxtyping import Float, Int32, UInt8

from tpr_jax import optim
from tpr_jax.adapt import inputs
from tpr_jax.adapt.step import PHOTO_STREAM, TEXT_STREAM, augmented, jit_step, rows_of_step
from tpr_jax.data.augment import erase_color
from tpr_jax.data.batches import image_batches, text_batches
from tpr_jax.data.bucketing import trim_padding
from tpr_jax.distributed import sharding
from tpr_jax.errors import UserError
from tpr_jax.model import Model, from_pretrained, make_model
from tpr_jax.models import clip
from tpr_jax.models.methods import Method, layer_norm
from tpr_jax.models.positions import read_positions
from tpr_jax.search.format import format_skipped
from tpr_jax.search.query.chance import descriptions
from tpr_jax.train.evaluate import encode
from tpr_jax.train.step import jit_encoders
from tpr_jax.utils.normalize import l2_normalize
from tpr_jax.utils.plural import counted
from tpr_jax.utils.trees import merge

BETAS, EPS = (0.9, 0.999), 1e-6  # of Adam
MAX_NAMED = 10  # files that are skipped

Log = Callable[[str], object]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What an adaptation depends on.

    Attributes:
      model: a folder or hub id.
      photos: a folder, a table, or an index of `search`.
      texts: a text file with a description a line; None takes made-up descriptions.
      train: "layer_norm", or "parts" for the trained parts of the model's own method.
      steps: how many updates.
      lr: the learning rate at the beginning, from which it falls to 0.
      temperature: what cosine similarities are divided by.
      batch_size: photos in a batch; it holds twice as many descriptions.
      seed: the seed of order and augmentation.
    """

    model: str
    photos: str
    texts: str | None
    train: str
    steps: int
    lr: float
    temperature: float
    batch_size: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """What the steps of an adaptation share.

    Attributes:
      settings: what was asked for.
      model: the model before.
      method: the method of the adapted model.
      pixels: the photos.
      ids: the token ids of the descriptions.
      frozen: the collections that stay.
      trainable: the initial values of the others.
      optimizer: their optimizer.
      update: the jitted step.
      encoders: `(variables, rows) -> features` of images and of texts.
    """

    settings: Settings
    model: Model
    method: Method
    pixels: UInt8[np.ndarray, "n h w 3"]
    ids: Int32[np.ndarray, "t l"]
    frozen: dict
    trainable: dict
    optimizer: optax.GradientTransformation
    update: Callable
    encoders: tuple[Callable, Callable]

    def features(self, trainable: dict) -> tuple[Float[np.ndarray, "t e"], Float[np.ndarray, "n e"]]:
        """Computes the L2-normalized features of all descriptions and photos."""
        variables = merge(self.frozen, trainable)
        size = self.settings.batch_size
        images = image_batches(self.pixels, self.model.config.image_size, size)
        encode_image, encode_text = self.encoders
        photos = encode(encode_image, variables, images, -(-len(self.pixels) // size), "photos")
        ids = text_batches(self.ids, 2 * size)
        texts = encode(encode_text, variables, ids, -(-len(self.ids) // (2 * size)), "descriptions")
        return l2_normalize(texts), l2_normalize(photos)


def prepare(settings: Settings, log: Log) -> tuple[Adaptation, dict]:
    """Loads the model, reads the inputs, and builds what the steps need.

    Returns:
      The adaptation, and what the record says about the inputs.

    Raises:
      UserError: an input cannot be used.
    """
    model = from_pretrained(settings.model)
    method, names, patterns = trained_weights(model, settings.train)
    texts = inputs.read_texts(settings.texts, settings.seed) if settings.texts else descriptions()
    ids = token_ids(model, texts)
    photos = inputs.read_photos(settings.photos, model.config.image_size, settings.seed)
    for line in format_skipped(photos.unreadable, MAX_NAMED):
        log(line)
    trainable, frozen = optim.split_collections(model.variables, names, patterns)
    count = sum(leaf.size for leaf in jax.tree.leaves(trainable))
    made_up = "" if settings.texts else "made-up "
    log(
        f"adapting {counted(count, 'parameter')} to {counted(len(photos.pixels), 'photo')} and "
        f"{len(texts):,} {made_up}descriptions"
    )
    functions = clip.build(model.config, model.method, model.dtype)
    mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
    optimizer = make_optimizer(settings, trainable)
    task = Adaptation(
        settings=settings,
        model=model,
        method=method,
        pixels=photos.pixels,
        ids=ids,
        frozen=frozen,
        trainable=trainable,
        optimizer=optimizer,
        update=jit_step(functions, optimizer, 1 / settings.temperature, mesh, model.dtype),
        encoders=jit_encoders(functions, mesh, dtype=model.dtype),
    )
    facts = {
        "parameters": count,
        "photos": len(photos.pixels),
        "photos_found": photos.found,
        "descriptions": len(texts),
        "made_up": settings.texts is None,
    }
    return task, facts


def trained_weights(model: Model, train: str) -> tuple[Method, tuple[str, ...], tuple[str, ...]]:
    """Returns the method of the adapted model, and the collections and patterns to train.

    Raises:
      UserError: the model has no parts of its own.
    """
    method = model.method
    if train == "layer_norm":
        own = layer_norm().tuned
        return (
            dataclasses.replace(method, tuned=(*method.tuned, *(p for p in own if p not in method.tuned))),
            ("params",),
            own,
        )
    if not method.trainable:
        raise UserError(
            f"--train parts: {model.source} is a plain CLIP without trained parts; use --train layer_norm"
        )
    return method, method.trainable, method.tuned


def token_ids(model: Model, texts: list[str]) -> Int32[np.ndarray, "t l"]:
    """Returns the token ids of the descriptions, without padding that no description needs.

    Raises:
      UserError: the model has no tokenizer.
    """
    if model.tokenizer is None:
        raise UserError(f"{model.source}: has no tokenizer.json, so it cannot read descriptions")
    ids = model.tokenizer(texts)
    return trim_padding(ids, read_positions(ids, model.config)) if model.config.causal else ids


def make_optimizer(settings: Settings, trainable: Mapping) -> optax.GradientTransformation:
    """Returns Adam without weight decay, whose rate falls to 0 along a cosine."""
    rate = functools.partial(optim.rate_factor, kind="cosine", warmup=0.0, total=settings.steps)
    b1, b2 = BETAS
    return optim.adam(
        lambda step: settings.lr * rate(step), dict(trainable), ((r".*", 1.0, 0.0),), b1=b1, b2=b2, eps=EPS
    )


def make_batch(
    task: Adaptation,
    step: int,
    text_labels: Float[np.ndarray, "t n"],
    photo_labels: Float[np.ndarray, "n t"],
) -> dict[str, np.ndarray]:
    """Returns the batch of a step, a function of the seed, the step and the labels."""
    settings, config = task.settings, task.model.config
    rows = rows_of_step(len(task.pixels), settings.batch_size, step, settings.seed, PHOTO_STREAM)
    texts = rows_of_step(len(task.ids), 2 * settings.batch_size, step, settings.seed, TEXT_STREAM)
    color = erase_color(config.image_mean, config.image_std)
    return {
        "image": augmented(task.pixels, rows, step, settings.seed, color),
        "image_labels": photo_labels[rows],
        "ids": task.ids[texts],
        "text_labels": text_labels[texts],
    }


def adapted_model(task: Adaptation, trainable: dict) -> Model:
    """Returns the model with the trained values."""
    model = task.model
    return make_model(
        model.config,
        task.method,
        merge(model.variables, trainable),
        tokenizer=model.tokenizer,
        source=model.source,
        dtype=model.dtype,
        backbone=model.backbone,
    )
