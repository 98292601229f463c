"""The benchmarks in PyTorch compute the same as those that they are compared with."""

import functools

import jax
import numpy as np
import pytest

from tests.bench.test_torch_models import rename
from tests.tiny_clip import quick_compilation  # noqa: F401 (a fixture for the whole module)
from tpr_jax.bench import models, torch_cases
from tpr_jax.bench import subjects as bench_subjects
from tpr_jax.config.defaults import loss_weights
from tpr_jax.train.objective import objective
from tpr_jax.weights import reference
from tpr_jax.weights.hugging_face import to_hugging_face

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_matmul(dtype):
    settings = {"kind": "product", "dtype": dtype, "size": 32}
    ours, theirs = (bench_subjects.make_case(settings | {"by": by}).run() for by in ("options", "torch"))
    assert str(theirs.dtype) == f"torch.{dtype}"
    tolerance = 1e-4 if dtype == "float32" else 0.1
    np.testing.assert_allclose(theirs.float().numpy(), np.asarray(ours, np.float32), atol=tolerance)


@pytest.fixture
def same_weights(monkeypatch):
    """Gives each plain PyTorch model the weights that the benchmarks of the same method start with."""
    torch = pytest.importorskip("torch")
    from tpr_jax.bench import torch_models

    plain = torch_models.Clip

    def build(config, method):
        functions = models.build_model(method.name, "clip_mini", "float32", 4).functions
        variables = jax.tree.map(np.asarray, jax.jit(functions["init"])(jax.random.key(0)))
        state = rename(reference.state(variables, method, config), method.name)
        model = plain(config, method)
        model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.items()})
        return model

    monkeypatch.setattr(torch_models, "Clip", build)


@pytest.mark.parametrize(
    ("method", "dtype"),
    [("dm_adapter", "float32"), ("up_person", "float32"), ("cskt", "float32"), ("dm_adapter", "bfloat16")],
)
def test_train_step_has_the_loss_of_ours(same_weights, method, dtype):
    model = models.build_model(method, "clip_mini", dtype, 4)
    variables = jax.jit(model.functions["init"])(jax.random.key(0))
    batch, scale = models.random_batch(model.clip_config, 4), 1 / model.config.temperature
    loss = functools.partial(objective, model.functions, loss_weights(model.config), scale, {}, batch=batch)
    expected = jax.jit(lambda frozen: loss(frozen=frozen)[0])(variables)

    subject = {"config": method, "backbone": "clip_mini", "dtype": dtype, "batch": 4}
    case = bench_subjects.make_case({"kind": "torch_train_step", **subject})
    losses = [case.run() for _ in range(4)]
    assert losses[0] == pytest.approx(float(expected), rel=1e-5 if dtype == "float32" else 0.02)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_encoder(tower):
    case = bench_subjects.make_case(
        {"kind": "torch_encoder", "tower": tower, "backbone": "clip_mini", "dtype": "float32", "batch": 3}
    )
    output = case.run()
    feats = getattr(output, "pooler_output", output)  # transformers 5 wraps the features
    config = models.build_model("zero_shot", "clip_mini", "float32", 3).clip_config
    assert feats.shape == (3, config.embed_dim) and bool(feats.isfinite().all())


def test_photo_index_has_the_vectors_of_ours(monkeypatch):
    """With the same weights, of the same JPEGs, in more than one batch; in bfloat16 up to its rounding."""
    torch = pytest.importorskip("torch")
    build = torch_cases._clip_model

    def with_our_weights(config, dtype):
        functions = models.build_model("zero_shot", "clip_mini", "float32", 1).functions
        params = jax.tree.map(np.asarray, jax.jit(functions["init"])(jax.random.key(0)))["params"]
        arrays, _ = to_hugging_face(params, config)
        model = build(config, "float32")
        state = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
        assert not model.load_state_dict(state, strict=False).unexpected_keys
        return model.to(getattr(torch, dtype))

    monkeypatch.setattr(torch_cases, "_clip_model", with_our_weights)
    subject = {"backbone": "clip_mini", "photos": 40}
    expected = bench_subjects.make_case({"kind": "index", "dtype": "float32", **subject}).run()
    for dtype, tolerance in (("float32", 1e-3), ("bfloat16", 2e-2)):
        found = bench_subjects.make_case({"kind": "torch_index", "dtype": dtype, **subject}).run()
        np.testing.assert_allclose(found, expected, atol=tolerance)
        similarity = found.astype(np.float32) @ expected.astype(np.float32).T
        assert similarity.argmax(axis=1).tolist() == list(range(40))
