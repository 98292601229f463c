"""The model benchmarks compute what they claim to."""

import numpy as np
import pytest

from tpr_jax.bench import cases, models
from tpr_jax.errors import UserError
from tpr_jax.models.methods import METHODS
from tpr_jax.perf import flops


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_encoder_computes_features_and_counts_their_flops(tower):
    case = cases.encoder(tower, "clip_mini", "float32", 3)
    feats = np.asarray(case.run())
    config = models.build_model("zero_shot", "clip_mini", "float32", 3).clip_config
    assert feats.shape == (3, config.embed_dim) and np.isfinite(feats).all()
    assert np.linalg.norm(feats[0] - feats[1]) > 1e-3
    matmuls = flops.encode(config, METHODS["zero_shot"](), tower, 3)
    assert case.flops == flops.total(matmuls)["total"] > 0


def test_train_step_decreases_the_loss():
    case = cases.train_step("parallel_adapter", "clip_mini", "float32", 4)
    losses = [float(case.run()) for _ in range(4)]
    assert losses[-1] < losses[0] and case.flops > 1e8 and case.compile_seconds > 0


def test_rejects_more_devices_than_available():
    config = models.read_config("dm_adapter", "clip_mini")
    assert cases.make_mesh(config).size == 1
    with pytest.raises(UserError, match="devices=9999: only 1 available"):
        cases.make_mesh(config, 9999)
