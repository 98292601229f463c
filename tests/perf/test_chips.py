"""The table of chips and their peak rates."""

import pytest

from tpr_jax.perf import chips


@pytest.mark.parametrize(
    ("kind", "tera"),
    [
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v6 lite", 918),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA GeForce RTX 3090", 71),
        ("NVIDIA GeForce RTX 4090", 165),
    ],
)
def test_finds_chips_by_their_device_kind(kind, tera):
    assert chips.find(kind).flops == chips.peak(kind, "bfloat16") == tera * 1e12


@pytest.mark.parametrize("kind", ["cpu", "TPU v9", "NVIDIA GeForce GTX 1080"])
def test_unknown_chips_have_no_peak(kind):
    assert chips.find(kind) is None and chips.peak(kind, "bfloat16") is None


def test_float32_takes_a_tpu_six_passes():
    assert chips.peak("TPU v5 lite", "float32") == 197e12 / 6
    assert chips.peak("NVIDIA L4", "float32") is None


def test_rates_are_plausible():
    """All chips have tens to thousands of TFLOP/s and 50 to 1000 operations per byte of memory."""
    for chip in (*chips.TPUS.values(), *chips.GPUS.values()):
        assert 5e13 < chip.flops < 1e16
        assert 50 < chip.flops / chip.bandwidth < 1000
        assert chip.interconnect < chip.bandwidth
