"""The models that are timed compute what they say."""

import numpy as np
import pytest

from tpr_jax.bench import cases as bench_models
from tpr_jax.errors import UserError
from tpr_jax.models.methods import METHODS
from tpr_jax.perf import flops


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_features_of_an_encoder(tower):
    ready = bench_models.encoder(tower, "clip_mini", "float32", 3)
    feats = np.asarray(ready.once())
    sizes = bench_models.model_of("zero_shot", "clip_mini", "float32", 3)[1]
    assert feats.shape == (3, sizes.embed_dim) and np.isfinite(feats).all()
    assert np.linalg.norm(feats[0] - feats[1]) > 1e-3
    products = flops.encode(sizes, METHODS["zero_shot"](), tower, 3)
    assert ready.flops == flops.total(products)["total"] > 0


def test_a_step_trains():
    ready = bench_models.train_step("parallel_adapter", "clip_mini", "float32", 4)
    losses = [float(ready.once()) for _ in range(4)]
    assert losses[-1] < losses[0] and ready.flops > 1e8 and ready.compile_seconds > 0


def test_keys_of_a_step_reach_the_method_and_devices_have_to_be_there():
    _, _, method, _ = bench_models.model_of(
        "dm_adapter", "clip_mini", "float32", 4, **{"method.num_experts": 3}
    )
    assert method.vision[0].num_experts == 3
    config = bench_models.read_config("dm_adapter", "clip_mini")
    assert bench_models.mesh_of(config).size == 1
    with pytest.raises(UserError, match="devices=9999: there are"):
        bench_models.mesh_of(config, 9999)
