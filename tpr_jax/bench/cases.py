"""Of what `bench` times the models: products, encoders and train steps with random weights."""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from tpr_jax.errors import UserError

PRODUCT_SIZE = 4096
BACKBONES = {"vit_b_16": ":cuhk_pedes", "clip_mini": ""}  # what stands behind a config's name


class Ready(NamedTuple):
    """`once()` runs the subject and waits for its end; `flops` are those that it cannot do without; `text()`
    is the compiled program, of those that are one."""

    once: Callable[[], object]
    flops: float
    compile_seconds: float
    text: Callable[[], str] = str


def product(dtype: str, size: int = PRODUCT_SIZE) -> Ready:
    """A product of two square matrices, sums in float32: what this machine can do at best."""
    from tpr_jax.models.matmul import matmul_f32
    from tpr_jax.train.step import compiler_options

    arguments = [
        jax.random.normal(key, (size, size), dtype) for key in jax.random.split(jax.random.key(0), 2)
    ]
    function = jax.jit(lambda a, b: matmul_f32(a, b).astype(dtype), compiler_options=compiler_options())
    return _compiled(function, arguments, 2.0 * size**3)


def encoder(tower: str, backbone: str, dtype: str, batch: int, method: str = "zero_shot") -> Ready:
    """Features of `batch` images or texts: `tower` is 'vision' or 'text'; texts have the full length."""
    from tpr_jax.models import clip
    from tpr_jax.perf import flops
    from tpr_jax.train import step

    _, sizes, spec, model = model_of(method, backbone, dtype, batch)
    variables = jax.jit(model["init"])(jax.random.key(0))
    variables = clip.inference_variables(variables, dtype)
    rows = _batch(sizes, batch)["image" if tower == "vision" else "ids"]
    function = model["encode_image" if tower == "vision" else "encode_text"]
    encode = jax.jit(lambda v, x: function(v, x)[0], compiler_options=step.encoder_options(batch))
    least = flops.total(flops.encode(sizes, spec, tower, batch))["total"]
    return _compiled(encode, (variables, jnp.asarray(rows)), least)


def train_step(
    config: str, backbone: str, dtype: str, batch: int, devices: int = 1, **config_overrides
) -> Ready:
    """One update by `configs/CONFIG.py`, its batch split over so many devices; further keys of the config
    have their own names, as `method.num_experts`."""
    from tpr_jax import optim
    from tpr_jax.config import defaults as config_lib
    from tpr_jax.distributed import sharding
    from tpr_jax.models import clip
    from tpr_jax.perf import flops
    from tpr_jax.train import setup as prepare
    from tpr_jax.train import step

    config, sizes, spec, model = model_of(config, backbone, dtype, batch, **config_overrides)
    variables = jax.jit(model["init"])(jax.random.key(0))
    trainable, frozen = optim.split_model(variables, spec)
    if "params" in frozen:
        frozen["params"] = clip.cast_frozen(frozen["params"], dtype)
    weights, mesh = config_lib.loss_weights(config), mesh_of(config, devices)
    optimizer = prepare.make_optimizer(config, trainable, per_epoch=1)[1]
    update = step.jit_train_step(model, optimizer, weights, 1 / config.temperature, mesh, config.accumulate)
    state = sharding.shard_params(mesh, step.init_state(optimizer, trainable))
    frozen = sharding.shard_params(mesh, frozen)
    rows = sharding.shard_batch(mesh, _batch(sizes, batch))
    del variables, trainable
    began = time.perf_counter()
    program = step.aot_compile(update, state, frozen, rows)
    seconds = time.perf_counter() - began

    def once():
        nonlocal state
        state, metrics = program(state, frozen, rows)
        return jax.block_until_ready(metrics["loss"])

    least = flops.total(flops.train_step(sizes, spec, batch, weights))["total"]
    return Ready(once, least, seconds, program.as_text)


def torch_encoder(tower: str, backbone: str, dtype: str, batch: int) -> Ready:
    """The same features by transformers' PyTorch `CLIPModel`, with random weights, as its users call it."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    from tpr_jax.weights.hugging_face import write_config

    _, sizes, _, _ = model_of("zero_shot", backbone, dtype, batch)
    where = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(where):
        model = CLIPModel(CLIPConfig.from_dict(write_config(sizes))).to(getattr(torch, dtype)).eval()
    rows = _batch(sizes, batch)
    if tower == "vision":
        pixels = torch.from_numpy(rows["image"]).permute(0, 3, 1, 2).to(where)
        given = {"pixel_values": pixels.to(getattr(torch, dtype)) / 255, "interpolate_pos_encoding": True}
        call = model.get_image_features
    else:
        given, call = {"input_ids": torch.from_numpy(rows["ids"]).long().to(where)}, model.get_text_features

    def once():
        with torch.inference_mode():
            call(**given)
        if where == "cuda":
            torch.cuda.synchronize()

    return Ready(once, 0.0, 0.0)


def model_of(config: str, backbone: str, dtype: str, batch: int, **settings) -> tuple:
    """(the config, CLIP's sizes, the method, the model's functions)."""
    from tpr_jax.aot.programs import sizes_of
    from tpr_jax.config import defaults as config_lib
    from tpr_jax.models import clip

    config = read_config(config, backbone, batch_size=batch, dtype=dtype, **settings)
    sizes, spec = sizes_of(config), config_lib.make_method(config)
    model = clip.build(sizes, spec, dtype, remat=config.remat, scan_layers=config.scan_layers)
    return config, sizes, spec, model


def read_config(name: str, backbone: str, **settings) -> ConfigDict:
    """`configs/NAME.py` for ViT-B/16 at the benchmarks' image size, or for clip-mini."""
    from tpr_jax.config.flags import parse_flags

    keys = [f"--config.{key}={value}" for key, value in settings.items()]
    path = f"configs/{name}.py{BACKBONES[backbone]}"
    return parse_flags(["bench", "--config", path, "--workdir", "unused", *keys])[0]


def mesh_of(config: ConfigDict, devices: int = 1) -> jax.sharding.Mesh:
    """The config's mesh of the first so many devices.

    Raises:
      UserError: there are fewer.
    """
    from tpr_jax.distributed import sharding

    here = jax.devices()
    if devices > len(here):
        raise UserError(f"devices={devices}: there are {len(here)}; see XLA_FLAGS in bench_turns.py")
    return sharding.make_mesh(**config.mesh, devices=here[:devices])


def _batch(sizes, batch: int) -> dict[str, np.ndarray]:
    """Random pictures, and texts of full length, with two of each identity."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, sizes.vocab_size - 3, (batch, sizes.context_length), np.int32)
    ids[:, -1] = sizes.vocab_size - 1
    return {
        "image": rng.integers(0, 256, (batch, *sizes.image_size, 3), np.uint8),
        "ids": ids,
        "pid": np.arange(batch, dtype=np.int32) // 2,
    }


def _compiled(function, arguments, flops: float) -> Ready:
    from tpr_jax.train import step

    began = time.perf_counter()
    program = step.aot_compile(function, *arguments)
    seconds = time.perf_counter() - began
    return Ready(lambda: jax.block_until_ready(program(*arguments)), flops, seconds, program.as_text)
