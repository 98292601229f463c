"""What `bench` times, each as a function to call; the models of it are in `models.py`.

A subject is plain data, `{"kind": ..., "dtype": ..., ...}`, so that it can be made ready in a process of its
own (`turns.py`): then nothing else is in that process' peak of memory.
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
from tpr_jax.bench.cases import Ready, encoder, mesh_of, model_of, product, torch_encoder, train_step


def make(subject: dict) -> Ready:
    """Compiles a subject and gives it its arguments."""
    return MAKERS[subject["kind"]](**{key: value for key, value in subject.items() if key != "kind"})


def checkpoint(config: str, backbone: str, does: str) -> Ready:
    """A training state on its way to the disk until it is there ('save'), or back ('restore')."""
    from tpr_jax import optim
    from tpr_jax.distributed import sharding
    from tpr_jax.train import checkpoint
    from tpr_jax.train import setup as prepare
    from tpr_jax.train.state import TrainState

    config, _, spec, model = model_of(config, backbone, "float32", 8)
    trainable = optim.split_model(jax.jit(model["init"])(jax.random.key(0)), spec)[0]
    state = TrainState.create(prepare.make_optimizer(config, trainable, per_epoch=1)[1], trainable)
    state = sharding.shard_params(mesh_of(config), state).as_dict()
    manager = checkpoint.open_manager(Path(_folder()), keep=1)
    number = itertools.count()

    def save():
        checkpoint.save(manager, next(number), state, {})
        checkpoint.finish(manager)

    save()
    return Ready(save if does == "save" else lambda: checkpoint.restore_newest(manager, state), 0.0, 0.0)


def searching(vectors: int, width: int = 512) -> Ready:
    """The ten best of random vectors for one: exact, over what is mapped from the disk."""
    search = _random_index(vectors, width)
    query = np.random.default_rng(1).normal(size=width).astype(np.float32)
    return Ready(lambda: search(query / np.linalg.norm(query)), 0.0, 0.0)


def query(backbone: str, dtype: str, vectors: int) -> Ready:
    """A sentence, from its letters to the ten best of random vectors."""
    from tpr_jax.data.tokenizer import clip_tokenizer
    from tpr_jax.model import make_model

    _, sizes, spec, functions = model_of("zero_shot", backbone, dtype, 1)
    variables = jax.jit(functions["init"])(jax.random.key(0))
    model = make_model(sizes, spec, variables, tokenizer=clip_tokenizer(), dtype=dtype)
    search = _random_index(vectors, sizes.embed_dim)
    text = "a woman in a red coat and black trousers with a white bag over her left shoulder"
    began = time.perf_counter()
    model.encode_texts([text], batch_size=1)
    seconds = time.perf_counter() - began
    return Ready(lambda: search(model.encode_texts([text], batch_size=1)[0]), 0.0, seconds)


def command(module: str) -> Ready:
    """A command from its start to its help, in a process of its own."""
    return Ready(
        lambda: subprocess.run(
            [sys.executable, "-m", module, "--help"], check=True, stdout=subprocess.DEVNULL
        ),
        0.0,
        0.0,
    )


def ranking(queries: int, gallery: int, identities: int, of: str = "") -> Ready:
    """The metrics of random features, both directions; `of` is whose sizes these are, for the table."""
    from tpr_jax.metrics import retrieval as metrics

    split = bench_ranking.random_split(queries, gallery, 512, identities)
    return Ready(lambda: metrics.retrieval_metrics(*split), 0.0, 0.0)


MAKERS = {
    "product": product,
    "encoder": encoder,
    "train_step": train_step,
    "torch_encoder": torch_encoder,
    "checkpoint": checkpoint,
    "search": searching,
    "query": query,
    "command": command,
    "ranking": ranking,
}


def _folder() -> str:
    """A folder that is gone when the process ends."""
    folder = tempfile.mkdtemp(prefix="tpr_jax_bench_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _random_index(count: int, width: int) -> Callable:
    """vector -> (scores, rows) of the ten best of `count` random ones on the disk."""
    from tpr_jax.search.query import exact as codes

    folder, rng = Path(_folder()), np.random.default_rng(0)
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float16, (count, width))
    for at in range(0, count, 2**16):
        block = rng.standard_normal((min(2**16, count - at), width), np.float32)
        vectors[at : at + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    vectors.flush()
    ready = codes.open_codes(folder, codes.write_codes(vectors, folder, "codes"))
    return lambda query: codes.exact_top_k(ready, vectors, query, 10)
