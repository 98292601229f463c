"""Builds the benchmarks of `bench` from their descriptions; `cases.py` has those of the models.

A subject is plain data, `{"kind": ..., "dtype": ..., ...}`, so that `worker.py` can build it in a process of
its own: the peak memory of that process is then the benchmark's alone.
"""

import atexit
import itertools
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from tpr_jax.bench import ranking as bench_ranking
from tpr_jax.bench import torch_cases
from tpr_jax.bench.cases import encoder, make_mesh, matmul, train_step
from tpr_jax.bench.input import write_images
from tpr_jax.bench.models import Case, build_model
from tpr_jax.train.state import TrainState


def make_case(subject: dict) -> Case:
    """Compiles the benchmark that a subject describes and allocates its inputs."""
    return CASE_BUILDERS[subject["kind"]](**{key: value for key, value in subject.items() if key != "kind"})


def checkpoint(config: str, backbone: str, does: str) -> Case:
    """Saves a training state and waits until it is on disk ("save"), or restores it ("restore")."""
    from tpr_jax import optim
    from tpr_jax.distributed import sharding
    from tpr_jax.train import checkpoint, setup

    model = build_model(config, backbone, "float32", 8)
    trainable = optim.split_model(jax.jit(model.functions["init"])(jax.random.key(0)), model.method)[0]
    state = TrainState.create(
        setup.make_optimizer(model.config, model.clip_config, trainable, per_epoch=1)[1], trainable
    )
    state = sharding.shard_params(make_mesh(model.config), state)
    manager = checkpoint.open_manager(Path(_temporary_dir()), keep=1)
    steps = itertools.count()

    def save():
        checkpoint.save(manager, next(steps), state, {})
        checkpoint.finish(manager)

    save()
    return Case(save if does == "save" else lambda: checkpoint.restore_newest(manager, state))


def vector_search(vectors: int, width: int = 512) -> Case:
    """Finds the top 10 of random memory-mapped vectors for one random query, exactly."""
    search = _random_index(vectors, width)
    query = np.random.default_rng(1).normal(size=width).astype(np.float32)
    return Case(lambda: search(query / np.linalg.norm(query)))


def text_query(backbone: str, dtype: str, vectors: int) -> Case:
    """Tokenizes and encodes a sentence and finds the top 10 of random vectors."""
    from tpr_jax.data.tokenizer import clip_tokenizer
    from tpr_jax.model import make_model

    _, clip_config, method, functions = build_model("zero_shot", backbone, dtype, 1)
    variables = jax.jit(functions["init"])(jax.random.key(0))
    model = make_model(clip_config, method, variables, tokenizer=clip_tokenizer(), dtype=dtype)
    search = _random_index(vectors, clip_config.embed_dim)
    text = "a woman in a red coat and black trousers with a white bag over her left shoulder"
    start = time.perf_counter()
    model.encode_texts([text], batch_size=1)
    compile_seconds = time.perf_counter() - start
    return Case(lambda: search(model.encode_texts([text], batch_size=1)[0]), compile_seconds=compile_seconds)


def photo_index(backbone: str, dtype: str, photos: int) -> Case:
    """Reads JPEGs and encodes them as `search index` does, and returns their vectors."""
    from tpr_jax.model import make_model
    from tpr_jax.perf import flops
    from tpr_jax.search.index import encode
    from tpr_jax.search.index.gallery import find_gallery

    _, clip_config, method, functions = build_model("zero_shot", backbone, dtype, 1)
    variables = jax.jit(functions["init"])(jax.random.key(0))
    folder = Path(_temporary_dir())
    write_images(folder, photos)
    gallery = find_gallery(folder)
    encoder, devices = encode.make_encoder(make_model(clip_config, method, variables, dtype=dtype))
    size = encode.default_batch_size(clip_config, devices)

    def run() -> np.ndarray:
        reads = encode.read_ahead(folder, gallery.photos, clip_config.image_size, ahead=4 * size)
        found = encode.encode(encoder, encode.batches(reads, clip_config.image_size, size))
        return np.concatenate([vectors for _, vectors in found])

    minimum = flops.total(flops.encode(clip_config, method, "vision", photos))["total"]
    return Case(run, minimum)


def torch_photo_index(backbone: str, dtype: str, photos: int) -> Case:
    """Reads and encodes the JPEGs of `photo_index` in PyTorch, in batches of the same size."""
    from tpr_jax.search.index.encode import default_batch_size

    config = build_model("zero_shot", backbone, dtype, 1).clip_config
    paths = write_images(Path(_temporary_dir()), photos).image_paths
    return torch_cases.photo_index(backbone, dtype, paths, default_batch_size(config, 1))


def command(module: str) -> Case:
    """Runs `python -m MODULE --help` in a process of its own."""
    argv = [sys.executable, "-m", module, "--help"]
    return Case(lambda: subprocess.run(argv, check=True, stdout=subprocess.DEVNULL))


def ranking(queries: int, gallery: int, identities: int, of: str = "") -> Case:
    """Computes the retrieval metrics of random features, both directions.

    `of` names the benchmark that has these sizes; only the table reads it.
    """
    from tpr_jax.metrics.retrieval import retrieval_metrics

    split = bench_ranking.random_split(queries, gallery, 512, identities)
    return Case(lambda: retrieval_metrics(*split))


# The keys are in bench.json.
CASE_BUILDERS = {
    "product": matmul,
    "encoder": encoder,
    "train_step": train_step,
    "torch_encoder": torch_cases.encoder,
    "torch_train_step": torch_cases.train_step,
    "checkpoint": checkpoint,
    "search": vector_search,
    "query": text_query,
    "index": photo_index,
    "torch_index": torch_photo_index,
    "command": command,
    "ranking": ranking,
}


def _temporary_dir() -> str:
    """Makes a directory that is removed when the process exits."""
    path = tempfile.mkdtemp(prefix="tpr_jax_bench_")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def _random_index(count: int, width: int) -> Callable:
    """Writes `count` random unit vectors to disk; returns query -> (scores, rows) of the top 10."""
    from tpr_jax.search.query import exact

    folder, rng = Path(_temporary_dir()), np.random.default_rng(0)
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float16, (count, width))
    for start in range(0, count, 2**16):
        block = rng.standard_normal((min(2**16, count - start), width), np.float32)
        vectors[start : start + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    vectors.flush()
    codes = exact.open_codes(folder, exact.write_codes(vectors, folder, "codes"))
    return lambda query: exact.exact_top_k(codes, vectors, query, 10)
