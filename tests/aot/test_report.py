"""The analysis of compiled programs, and its text."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from tpr_jax.aot import report as aot_report
from tpr_jax.perf import chips


def test_roofline_names_the_slowest_of_the_three(monkeypatch):
    monkeypatch.setitem(chips.TPUS, "made up", chips.Chip(100.0, bandwidth=10.0, interconnect=1.0))
    found = aot_report.roofline("made up", flops=300.0, moved=20.0, sent=2.5, dtype="bfloat16")
    assert (found["products"], found["memory"], found["interconnect"]) == (3.0, 2.0, 2.5)
    assert (found["bound"], found["step"]) == ("products", 3.0)
    assert aot_report.roofline("made up", 300.0, 31.0, 2.5, "bfloat16")["bound"] == "memory"
    assert aot_report.roofline("cpu", 300.0, 31.0, 2.5, "bfloat16") is None


def test_float32_takes_a_tpu_six_passes():
    kinds = ("bfloat16", "float32")
    once, six = (aot_report.roofline("TPU v5 lite", 197e12, 0, 0, kind)["products"] for kind in kinds)
    assert (once, six) == (1.0, 6.0)


@pytest.mark.parametrize(
    ("message", "missing"),
    [
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
            "Used 20.25G of 15.75G hbm. Exceeded hbm capacity by 4.50G.",
            4.5 * 2**30,
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 16.5G of 15.75G hbm.",
            0.75 * 2**30,
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
            "(17.25G) exceeds available HBM (15.75G).",
            1.5 * 2**30,
        ),
    ],
)
def test_parses_a_shortage_of_memory(message, missing):
    assert aot_report.shortage(message)["missing"] == missing


def test_other_errors_are_not_a_shortage():
    assert aot_report.shortage("INVALID_ARGUMENT: Used 3G of 2G") is None
    assert aot_report.shortage("RESOURCE_EXHAUSTED: of file handles") is None


def test_memory_by_kind_adds_up():
    stats = SimpleNamespace(
        argument_size_in_bytes=1100,
        output_size_in_bytes=700,
        alias_size_in_bytes=600,
        temp_size_in_bytes=50,
        generated_code_size_in_bytes=7,
    )
    found = aot_report._memory(stats, {"trainable": 400, "frozen": 600})
    assert (found["padding"], found["outputs"]) == (100, 100)
    assert found["total"] == 1100 + 100 + 50 + 7 == sum(found.values()) - found["total"]
    unused = aot_report._memory(stats, {"trainable": 400, "frozen": 900})
    assert (unused["padding"], unused["total"]) == (0, 1300 + 100 + 50 + 7)


def test_a_program_compiled_here():
    """Its only product is the analytic minimum, and its output reuses the donated argument's buffer."""
    x = jax.ShapeDtypeStruct((64, 64), np.float32)
    compiled = jax.jit(lambda a, b: a @ b, donate_argnums=0).lower(x, x).compile()
    found = aot_report.analyze(
        compiled,
        {"a": 2 * 64 * 64 * 4},
        minimum={"total": 2 * 64**3},
        all_experts={"total": 4 * 64**3},
        devices=jax.devices()[:1],
        dtype="float32",
    )
    assert (found["flops"]["ratio"], found["flops"]["ratio_all_experts"]) == (1.0, 0.5)
    assert found["memory"]["a"] == 2 * 64 * 64 * 4 and found["memory"]["outputs"] <= 8
    assert found["collectives"] == {}
    text = "\n".join(aot_report.lines("step", found, 8))
    assert "1.000 x the analytic minimum (0.500 x with all experts)" in text and "nothing" in text


def test_a_gpu_has_kernels_instead_of_lanes():
    """The single product is one fusion; what a TPU's lanes would be is not told."""
    text = """%product (p.0: f32[64,64]) -> f32[64,64] {
  %p.0 = f32[64,64]{1,0} parameter(0)
  ROOT %d = f32[64,64]{1,0} dot(%p.0, %p.0), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (x: f32[64,64]) -> f32[64,64] {
  %x = f32[64,64]{1,0} parameter(0)
  ROOT %f = f32[64,64]{1,0} fusion(%x), kind=kCustom, calls=%product
}
"""
    stats = SimpleNamespace(
        argument_size_in_bytes=64 * 64 * 4,
        output_size_in_bytes=64 * 64 * 4,
        alias_size_in_bytes=0,
        temp_size_in_bytes=0,
        generated_code_size_in_bytes=0,
    )
    compiled = SimpleNamespace(
        as_text=lambda: text, memory_analysis=lambda: stats, cost_analysis=lambda: None
    )
    described = SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3", platform="gpu")
    found = aot_report.analyze(
        compiled,
        {"a": 64 * 64 * 4},
        minimum={"total": 2 * 64**3},
        all_experts={"total": 2 * 64**3},
        devices=[described],
        dtype="bfloat16",
    )
    assert found["kernels"] == 1 and found["roofline"]["products"] == 2 * 64**3 / 989e12
    lines = aot_report.lines("step", found | {"kernels": 1234}, 8)
    assert "  kernels            1,234" in lines and "lanes" not in "".join(lines)


def test_lines_of_a_program_that_does_not_fit():
    short = {"needed": 20 * 2**30, "available": 16 * 2**30, "missing": 4 * 2**30}
    (line,) = aot_report.lines("train_step", {"shortage": short}, 8)
    assert "4.00 GiB are missing" in line and "16.00 GiB" in line
