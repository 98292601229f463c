"""The model benchmarks compute what they claim to."""

import numpy as np
import pytest

from tpr_jax.bench import cases, models
from tpr_jax.errors import UserError
from tpr_jax.models.methods import METHODS
from tpr_jax.perf import flops
from tpr_jax.train import step


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


def test_train_step_reads_the_captions_and_patches_of_the_config(monkeypatch):
    """The recipe's two captions per image, and half of the 48 patches of 192 x 64 pixels."""
    shapes = {}

    def compile_nothing(update, state, frozen, inputs):
        shapes.update({name: array.shape for name, array in inputs.items()})

    monkeypatch.setattr(step, "aot_compile", compile_nothing)
    recipe = cases.train_step("tpr_peft", "clip_mini", "float32", 2)
    assert shapes == {"image": (2, 192, 64, 3), "ids": (2, 2, 64), "pid": (2,), "patches": (2, 24)}
    whole = {"captions_per_image": 1, "patch_dropout": 0}
    plain = cases.train_step("tpr_peft", "clip_mini", "float32", 4, **whole)
    # By image, 130 million of multiplications in the vision tower and 46 in the text tower.
    assert 0.85 < 2 * recipe.flops / plain.flops < 0.95


def test_rejects_more_devices_than_available():
    config = models.read_config("dm_adapter", "clip_mini")
    assert cases.make_mesh(config).size == 1
    with pytest.raises(UserError, match="devices=9999: only 1 available"):
        cases.make_mesh(config, 9999)
