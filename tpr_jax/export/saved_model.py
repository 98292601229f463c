"""Writes and reads encoders as a TensorFlow SavedModel that calls the StableHLO of `jax.export`."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
from jax import export
from jax.extend.mlir import ir, passmanager
from jax.extend.mlir.dialects import stablehlo

from tpr_jax.data import prefetch
from tpr_jax.errors import UserError
from tpr_jax.export.encoders import INPUTS, NAMES, encoders, row_specs
from tpr_jax.model import Model
from tpr_jax.models import casting
from tpr_jax.models.matmul import tracing_for
from tpr_jax.utils.streams import suppress_stderr

OUTPUT = "features"
COMPOSITES_TO_CALLS = "stablehlo-legalize-composite-to-call"


def tensorflow() -> ModuleType:
    """Imports TensorFlow and hides the accelerators from it, which JAX uses.

    Raises:
      UserError: TensorFlow is not installed.
    """
    tf = prefetch.tensorflow()
    if tf is None:
        raise UserError(
            "--format saved_model needs TensorFlow: pip install tensorflow-cpu (or tensorflow), for "
            "Python 3.13 or older"
        )
    return tf


def write(model: Model, folder: Path, dtype: str, platforms: tuple[str, ...]) -> None:
    """Writes a SavedModel with signatures `encode_image` and `encode_text`, for any batch size.

    The two encoders share the weights, which are its variables.

    Raises:
      UserError: TensorFlow is missing, or cannot read what this version of JAX writes.
    """
    tf = tensorflow()
    module = tf.Module()
    variables = casting.inference_variables(model.variables, dtype)
    weights = jax.tree.map(lambda leaf: tf.Variable(np.asarray(leaf), trainable=False), variables)
    leaves = jax.tree.leaves(weights)  # before TensorFlow wraps the dicts, whose leaves JAX does not see
    module.weights = weights
    specs = row_specs(model)
    signatures = {}
    for name, function in encoders(model, dtype).items():
        shape, kind = specs[name]
        (b,) = export.symbolic_shape("b")
        rows = jax.ShapeDtypeStruct((b, *shape), kind)
        variable_specs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
        with tracing_for(platforms):
            exported = export.export(jax.jit(function), platforms=platforms)(variable_specs, rows)
        spec = tf.TensorSpec([None, *shape], kind, name=INPUTS[name])
        # Only as signatures: functions that are attributes of the module are traced again when it is saved.
        signature = tf.function(_call_exported(exported, leaves), autograph=False)
        try:
            signatures[name] = signature.get_concrete_function(spec)
        except (NotImplementedError, tf.errors.OpError, ValueError) as error:
            raise _unreadable_error(error) from error
    tf.saved_model.save(module, str(folder), signatures=signatures)


def old_stablehlo(exported: export.Exported) -> bytes:
    """Serializes an export in the oldest version of StableHLO that can represent it, from 1.0 on.

    JAX writes the version of four weeks ago, TensorFlow reads the version of its release: TensorFlow 2.21
    reads 1.13, JAX 0.12 writes 1.18. Composites (`erf`, `top_k`) become calls of their decomposition, because
    TensorFlow cannot refine composites to the batch size.

    Raises:
      ValueError: not even the newest version can represent it.
    """
    with ir.Context() as context:
        stablehlo.register_dialect(context)
        stablehlo.register_stablehlo_passes()
        program = stablehlo.deserialize_portable_artifact(context, exported.mlir_module_serialized)
        passes = passmanager.PassManager.parse(f"builtin.module(func.func({COMPOSITES_TO_CALLS}))")
        passes.run(program.operation)
        newest = int(stablehlo.get_current_version().split(".")[1])
        for minor in range(newest + 1):
            try:
                with suppress_stderr():  # MLIR logs the reason
                    return stablehlo.serialize_portable_artifact(program, f"1.{minor}.0")
            except ValueError:
                if minor == newest:
                    raise
    raise ValueError(f"StableHLO {stablehlo.get_current_version()} is not a version 1.x")


def _call_exported(exported: export.Exported, weights: list) -> Callable:
    """Returns the TensorFlow function of rows for a signature; `weights` are the leaves, as variables."""
    from tensorflow.compiler.tf2xla.python import xla  # as jax2tf does

    program = old_stablehlo(exported)
    (result,) = exported.out_avals
    features = [size if isinstance(size, int) else None for size in result.shape]

    def call(rows) -> dict:
        arguments = [*weights, rows]
        (feats,) = xla.call_module(
            tuple(arguments[i] for i in exported.module_kept_var_idx),
            version=exported.calling_convention_version,
            module=program,
            Tout=(result.dtype.name,),
            Sout=(features,),
            platforms=tuple(name.upper() for name in exported.platforms),
        )
        return {OUTPUT: feats}

    return call


def read(folder: Path) -> dict[str, Callable]:
    """Loads the encoders of a folder, on the CPU.

    An encoder raises a UserError when it is called and TensorFlow cannot run what JAX wrote.
    """
    tf = tensorflow()
    loaded = tf.saved_model.load(str(folder))

    def call(name: str, rows: np.ndarray) -> np.ndarray:
        try:
            return loaded.signatures[name](**{INPUTS[name]: rows})[OUTPUT].numpy()
        except tf.errors.OpError as error:
            raise _unreadable_error(error) from error

    return {name: lambda rows, name=name: call(name, rows) for name in NAMES}


def _unreadable_error(error: Exception) -> UserError:
    tf = tensorflow()
    return UserError(
        f"--format saved_model: TensorFlow {tf.__version__} cannot read what JAX {jax.__version__} writes "
        f"({' '.join(str(error).split())[:200]}): install a newer TensorFlow or an older JAX"
    )
