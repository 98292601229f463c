"""Trains the same few steps on each mesh of eight virtual CPU devices; run by distributed/test_sharding.py.

    python mesh_script.py methods '{METHOD: [DATAxMODEL[+PARTS], ...], ...}'
    python mesh_script.py losses DATAxMODEL...

The towers take the batch in PARTS microbatches, by default one. Prints JSON: for each method and mesh the
metrics of each step, the error of the parameters relative to their change on one device, and which leaves are
sharded; or for each loss alone the errors of its value and gradients, and the memory of a device.
"""

import dataclasses
import functools
import json
import sys

import jax
import numpy as np
from jax.sharding import Mesh

from tests import tiny_clip as tiny
from tpr_jax import losses, optim
from tpr_jax.distributed import sharding
from tpr_jax.models import clip
from tpr_jax.models.config import NO_HEADS, Heads
from tpr_jax.models.methods import METHODS
from tpr_jax.train import objective, step
from tpr_jax.train.state import TrainState

STEPS, ROWS = 5, 16
sharding.MIN_SHARDED_SIZE = 64  # the tiny CLIP's weights are all small


def batch(seed: int) -> dict:
    rows = tiny.batch(ROWS, seed)
    masked = rows["ids"].copy()
    masked[:, 1] = tiny.CONFIG.vocab_size - 2
    labels = np.where(rows["ids"] != masked, rows["ids"], 0)
    return {**rows, "mlm_ids": masked, "mlm_labels": labels}


def batch_of_parts(seed: int) -> dict:
    """Returns a batch with two captions and four of the six patches of each image."""
    rows, rng = tiny.batch(ROWS, seed), np.random.default_rng(seed)
    patches = np.stack([np.sort(rng.permutation(6)[:4]) for _ in range(ROWS)]).astype(np.int32)
    return {**rows, "ids": np.stack([rows["ids"], rows["ids"][::-1]], axis=1), "patches": patches}


def train(name: str, meshes: dict) -> dict:
    """Trains a method on each mesh: IRRA with all losses and their heads, LoRA with parts of the batch."""
    method = METHODS[name](**(tiny.DM_SETTINGS if name == "dm_adapter" else tiny.SETTINGS.get(name, {})))
    used = losses.NAMES if name == "irra" else ("sdm", "itc", "balance")
    weights = {loss: 1.0 for loss in used if loss != "balance" or method.mixtures}
    config = dataclasses.replace(tiny.CONFIG, text_layers=1)
    heads = Heads(ROWS, mlm_depth=1) if name == "irra" else NO_HEADS
    model = clip.build(config, method, heads=heads)
    variables = tiny.random_like(clip.declare(config, method, heads), seed=0)
    trainable, frozen = optim.split_model(variables, method)
    optimizer = optim.adam(lambda step: 1e-3, trainable, eps=1e-3)
    found, ended = {}, {}
    for label, mesh in meshes.items():
        parts = int(label.partition("+")[2] or 1)
        update = step.jit_train_step(model, optimizer, weights, 50.0, mesh, parts, dtype="float32")
        # A copy each, because a step donates its state.
        state = sharding.shard_params(mesh, TrainState.create(optimizer, jax.tree.map(np.copy, trainable)))
        held, logged = sharding.shard_params(mesh, frozen), []
        for seed in range(STEPS):
            rows = batch_of_parts(seed) if name == "lora" else batch(seed)
            state, metrics = update(state, held, sharding.shard_batch(mesh, rows))
            logged.append({key: np.asarray(value).tolist() for key, value in metrics.items()})
        ended[label] = flat(state.trainable)
        split = [leaf for leaf in jax.tree.leaves((state, held)) if not leaf.is_fully_replicated]
        shares = {leaf.addressable_shards[0].data.size / leaf.size for leaf in split}
        found[label] = {
            "metrics": logged,
            "error": float(norm(ended[label] - ended["1x1"]) / norm(ended["1x1"] - flat(trainable))),
            "split": len(split),
            "shares": sorted(shares),
            "compiled": update._cache_size(),
        }
    return found


def flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


norm = np.linalg.norm


def losses_alone(meshes: dict) -> dict:
    """Returns for each loss the largest error of its value and gradients relative to one device."""
    rng = np.random.default_rng(0)
    feats = [rng.normal(size=(ROWS, 8)).astype(np.float32) for _ in range(2)]
    pids = np.arange(ROWS, dtype=np.int32) * 2 // 3
    found = {}
    for name, loss in losses.BY_NAME.items():
        if name == "id":
            loss = functools.partial(loss, kernel=rng.normal(size=(8, ROWS)), bias=np.zeros(ROWS))
        values = {}
        for label, mesh in meshes.items():
            run = jax.jit(step.on_mesh(jax.value_and_grad(loss, argnums=(0, 1)), mesh))
            value, gradients = run(*sharding.shard_batch(mesh, (*feats, pids)))
            values[label] = np.append(flat(gradients), value)
        one = values["1x1"]
        found[name] = {label: float(np.abs(v - one).max() / norm(one)) for label, v in values.items()}
    return found


def memory_of_losses(mesh: Mesh, rows: int = 2048, width: int = 16) -> dict:
    """Returns for each loss the bytes of a device, and whether its program has an array of all pairs."""
    found = {}
    for name, loss in losses.BY_NAME.items():
        if name == "id":
            continue
        shapes = [((rows, width), np.float32)] * 2 + [((rows,), np.int32)]
        arrays = [jax.ShapeDtypeStruct(*s, sharding=sharding.row_sharding(mesh, rows)) for s in shapes]
        found[name] = needs(jax.value_and_grad(loss, argnums=(0, 1)), mesh, arrays, rows)
    return found | {"in parts": memory_in_parts(mesh, rows, width)}


def memory_in_parts(mesh: Mesh, rows: int, width: int, parts: int = 4) -> dict:
    """Returns the same for a loss of features that are computed in microbatches."""
    towers = {
        "encode_image": lambda variables, x, all_tokens, patches: (x @ variables["part"]["image"], []),
        "encode_text": lambda variables, ids, all_tokens: (variables["part"]["text"][ids[:, 0]], []),
    }
    split, whole = sharding.row_sharding(mesh, rows), sharding.leaf_shardings(mesh, np.zeros(()))
    batch = {"image": ((rows, 3), np.float32), "ids": ((rows, 2), np.int32), "pid": ((rows,), np.int32)}
    batch = {key: jax.ShapeDtypeStruct(*shape, sharding=split) for key, shape in batch.items()}
    leaves = {"image": (3, width), "text": (rows, width)}
    trainable = {key: jax.ShapeDtypeStruct(s, np.float32, sharding=whole) for key, s in leaves.items()}

    def run(trainable, batch):
        given = sharding.split_microbatches(mesh, batch, parts)
        return objective.grad_cached_loss_and_grad(towers, {"sdm": 1.0}, 50.0, {"part": trainable}, {}, given)

    return needs(run, mesh, (trainable, batch), rows)


def needs(function, mesh: Mesh, arguments, rows: int) -> dict:
    compiled = jax.jit(step.on_mesh(function, mesh)).lower(*arguments).compile()
    taken = compiled.memory_analysis().temp_size_in_bytes
    return {"bytes": taken, "all_pairs": f"[{rows},{rows}]" in compiled.as_text()}


def make_meshes(sizes: list[str]) -> dict[str, Mesh]:
    """Returns the mesh of one device, and those of these sizes."""
    one = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), sharding.AXES)
    return {"1x1": one} | {s: sharding.make_mesh(*map(int, s.split("+")[0].split("x"))) for s in sizes}


def main(what: str, *rest: str) -> None:
    if what == "methods":
        found = {name: train(name, make_meshes(sizes)) for name, sizes in json.loads(rest[0]).items()}
    else:
        meshes = make_meshes(list(rest))
        memory = {label: memory_of_losses(mesh) for label, mesh in list(meshes.items())[:2]}
        found = {"losses": losses_alone(meshes), "memory": memory}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
