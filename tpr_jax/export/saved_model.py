"""Encoders as a TensorFlow SavedModel, by jax2tf."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tpr_jax.errors import UserError
from tpr_jax.export.encoders import INPUTS, NAMES, encoders, row_specs
from tpr_jax.model import Model
from tpr_jax.models import clip
from tpr_jax.models.petl import moe
from tpr_jax.pipes import stderr_nowhere

OUTPUT = "features"


def tensorflow():
    """TensorFlow, kept off the accelerators, which are JAX's.

    Raises:
      UserError: it is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with stderr_nowhere():  # it greets there on import
            import tensorflow as tf
    except ImportError as error:
        raise UserError(
            "--format saved_model needs TensorFlow: pip install tensorflow-cpu (or tensorflow)"
        ) from error
    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
    return tf


def write(model: Model, folder: Path, dtype: str, platforms: tuple[str, ...]) -> None:
    """Writes a SavedModel with signatures `encode_image` and `encode_text`, for any batch size.

    The weights are its variables, each there once; the encoders take what they need of them.
    """
    tf = tensorflow()
    from jax.experimental import jax2tf

    module = tf.Module()
    variables = clip.held(model.variables, dtype)
    module.weights = jax.tree.map(lambda leaf: tf.Variable(np.asarray(leaf), trainable=False), variables)
    specs = row_specs(model)
    signatures = {}
    for name, function in encoders(model, dtype).items():
        shape, kind = specs[name]
        converted = jax2tf.convert(
            function,
            polymorphic_shapes=[None, "b, ..."],
            with_gradient=False,
            native_serialization_platforms=platforms,
        )
        spec = tf.TensorSpec([None, *shape], kind, name=INPUTS[name])
        # As signatures alone: functions that the module holds would be made anew when it is saved.
        made = tf.function(_bound(converted, module), autograph=False)
        with _without_top_k():
            signatures[name] = made.get_concrete_function(spec)
    tf.saved_model.save(module, str(folder), signatures=signatures)


def choose(logits: Float[Array, "b l e"], top_k: int) -> tuple[Array, Array]:
    """As `petl.moe.choose`, to the last bit, by taking the best k times."""
    best, hot, left = [], [], logits
    for _ in range(top_k):
        hot.append(jax.nn.one_hot(jnp.argmax(left, axis=-1), logits.shape[-1], dtype=logits.dtype))
        best.append(left.max(-1))
        left = jnp.where(hot[-1] > 0, -jnp.inf, left)
    hot = jnp.stack(hot, axis=-2)
    weights = jnp.einsum("blk,blke->ble", jax.nn.softmax(jnp.stack(best, axis=-1), axis=-1), hot)
    return weights, hot.sum(-2)


@contextlib.contextmanager
def _without_top_k() -> Iterator[None]:
    """Mixtures choose by `choose` above: TensorFlow 2.21 cannot read what JAX 0.10 makes of `top_k`.

    JAX writes it as a composite of StableHLO 1.15; TensorFlow knows 1.13.
    """
    original, moe.choose = moe.choose, choose
    try:
        yield
    finally:
        moe.choose = original


def _bound(converted: Callable, module) -> Callable:
    """The function of rows alone, which a signature is; the module is seen to hold its variables."""
    return lambda rows: {OUTPUT: converted(module.weights, rows)}


def read(folder: Path) -> dict[str, Callable]:
    """The encoders of a folder, on the CPU."""
    loaded = tensorflow().saved_model.load(str(folder))

    def call(name: str, rows: np.ndarray) -> np.ndarray:
        return loaded.signatures[name](**{INPUTS[name]: rows})[OUTPUT].numpy()

    return {name: lambda rows, name=name: call(name, rows) for name in NAMES}
