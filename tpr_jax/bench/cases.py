"""The model benchmarks: matrix products, encoders and train steps with random weights and inputs."""

import time

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from tpr_jax.bench import torch_cases
from tpr_jax.bench.models import Case, build_model, random_batch
from tpr_jax.errors import UserError
from tpr_jax.train.state import TrainState

MATMUL_SIZE = 4096


def matmul(dtype: str, by: str = "options", size: int = MATMUL_SIZE) -> Case:
    """Multiplies two square matrices: the fastest way of those that `by` names is the peak of this machine.

    Args:
      dtype: the type of the operands.
      by: "xla", with XLA's defaults; "options", with the options that the models are compiled with; "numpy",
        with NumPy's BLAS, in float32 because it has no other; or "torch", with PyTorch.
      size: the number of rows and columns.
    """
    from tpr_jax.models.matmul import matmul_f32
    from tpr_jax.perf.xla_options import compiler_options

    operands = [jax.random.normal(key, (size, size), dtype) for key in jax.random.split(jax.random.key(0), 2)]
    flops = 2.0 * size**3
    if by in ("numpy", "torch"):
        a, b = (np.asarray(operand, np.float32) for operand in operands)
        return Case((lambda: a @ b) if by == "numpy" else torch_cases.matmul(dtype, a, b), flops)
    options = compiler_options(dtype=dtype) if by == "options" else {}
    function = jax.jit(lambda a, b: matmul_f32(a, b).astype(dtype), compiler_options=options)
    return _compile(function, operands, flops)


def encoder(tower: str, backbone: str, dtype: str, batch: int, method: str = "zero_shot") -> Case:
    """Encodes `batch` images (`tower` "vision") or full-length texts ("text")."""
    from tpr_jax.model import jit_encoder
    from tpr_jax.models import casting
    from tpr_jax.perf import flops, xla_options

    model = build_model(method, backbone, dtype, batch)
    variables = jax.jit(model.functions["init"])(jax.random.key(0))
    variables = casting.inference_variables(variables, dtype)
    inputs = random_batch(model.clip_config, batch)["image" if tower == "vision" else "ids"]
    encode = model.functions["encode_image" if tower == "vision" else "encode_text"]
    options = xla_options.compiler_options(dtype=dtype, rows=batch)
    function = jit_encoder(encode, compiler_options=options)
    minimum = flops.total(flops.encode(model.clip_config, model.method, tower, batch))["total"]
    return _compile(function, (variables, jnp.asarray(inputs)), minimum)


def train_step(
    config: str, backbone: str, dtype: str, batch: int, devices: int = 1, **config_overrides
) -> Case:
    """Runs one update of `configs/CONFIG.py`.

    Args:
      config: the config's name.
      backbone: `models.VIT_B_16`, `models.CLIP_MINI` or a name of `models.config.NAMED`.
      dtype: the compute type.
      batch: the global batch size.
      devices: the number of devices that the batch is split over.
      **config_overrides: further config keys by their dotted names, such as `method.num_experts`.

    Returns:
      The compiled train step; each run continues from the state of the one before.
    """
    from tpr_jax import optim
    from tpr_jax.config import defaults as config_lib
    from tpr_jax.distributed import sharding
    from tpr_jax.models import casting
    from tpr_jax.perf import flops
    from tpr_jax.train import setup, step

    run_config, clip_config, method, functions = build_model(
        config, backbone, dtype, batch, **config_overrides
    )
    variables = jax.jit(functions["init"])(jax.random.key(0))
    trainable, frozen = optim.split_model(variables, method)
    if "params" in frozen:
        frozen["params"] = casting.cast_frozen(frozen["params"], dtype)
    weights, mesh = config_lib.loss_weights(run_config), make_mesh(run_config, devices)
    optimizer = setup.make_optimizer(run_config, clip_config, trainable, per_epoch=1)[1]
    logits = setup.make_logits(run_config, clip_config)
    update = step.jit_train_step(
        functions, optimizer, weights, logits, mesh, run_config.accumulate, dtype=dtype
    )
    state = sharding.shard_params(mesh, TrainState.create(optimizer, trainable))
    frozen = sharding.shard_params(mesh, frozen)
    captions, kept = run_config.captions_per_image, clip_config.kept_patches(run_config.patch_dropout)
    inputs = sharding.shard_batch(mesh, random_batch(clip_config, batch, captions, kept))
    del variables, trainable
    start = time.perf_counter()
    program = step.aot_compile(update, state, frozen, inputs)
    compile_seconds = time.perf_counter() - start

    def run():
        nonlocal state
        state, metrics = program(state, frozen, inputs)
        return jax.block_until_ready(metrics["loss"])

    counts = flops.train_step(
        clip_config, method, batch, weights, captions_per_image=captions, kept_patches=kept
    )
    return Case(run, flops.total(counts)["total"], compile_seconds, lambda: program.as_text() or "")


def make_mesh(config: ConfigDict, devices: int = 1) -> jax.sharding.Mesh:
    """Builds the config's mesh of the first `devices` devices.

    Raises:
      UserError: there are fewer.
    """
    from tpr_jax.distributed import sharding

    available = jax.devices()
    if devices > len(available):
        raise UserError(
            f"devices={devices}: only {len(available)} available; on the CPU, "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={devices} gives more"
        )
    return sharding.make_mesh(**config.mesh, devices=available[:devices])


def _compile(function, operands, flops: float) -> Case:
    from tpr_jax.train import step

    start = time.perf_counter()
    program = step.aot_compile(function, *operands)
    compile_seconds = time.perf_counter() - start
    return Case(
        lambda: jax.block_until_ready(program(*operands)),
        flops,
        compile_seconds,
        lambda: program.as_text() or "",
    )
