"""Compiler options follow the platform, the type, the rows, the CPU and the version of XLA."""

import jax
import jax.numpy as jnp
import pytest

from tpr_jax.perf import xla_options
from tpr_jax.perf.xla_options import NO_YNNPACK, compiler_options


@pytest.fixture
def cpu(monkeypatch):
    """Returns `cpu(native, accepted)`, which sets what the machine and XLA have."""

    def set_machine(native: bool, accepted: bool = True) -> None:
        monkeypatch.setattr(xla_options, "has_bfloat16_products", lambda: native)
        monkeypatch.setattr(xla_options, "has_ynnpack", lambda: accepted)

    return set_machine


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_returns_no_options_for_other_platforms(platform, cpu):
    for native in (False, True):
        cpu(native)
        assert compiler_options(dtype="float32", platform=platform) == {}


@pytest.mark.parametrize(
    ("native", "dtype", "rows", "uses_ynnpack"),
    [
        (True, "bfloat16", 16, True),
        (True, jnp.bfloat16, 2, True),
        (True, "float32", 16, False),
        (False, "bfloat16", 16, False),
        (False, "float32", 16, False),
        (False, "float32", 1, True),
        (False, "bfloat16", 1, True),
        (True, "bfloat16", 1, True),
    ],
)
def test_uses_ynnpack_where_it_was_measured_to_be_faster(native, dtype, rows, uses_ynnpack, cpu):
    cpu(native)
    options = compiler_options(dtype=dtype, rows=rows, platform="cpu")
    assert options == ({} if uses_ynnpack else NO_YNNPACK)


def test_returns_no_options_that_xla_does_not_have(cpu):
    cpu(False, accepted=False)
    assert compiler_options(dtype="float32", platform="cpu") == {}


def test_asks_xla_whether_it_has_the_option(monkeypatch):
    xla_options.has_ynnpack.cache_clear()
    monkeypatch.setattr(xla_options, "NO_YNNPACK", {"xla_cpu_no_such_option": ""})
    assert compiler_options(dtype="float32", platform="cpu") == {}
    xla_options.has_ynnpack.cache_clear()


def test_xla_accepts_the_cpu_options():
    program = jax.jit(jnp.negative, compiler_options=compiler_options(dtype="float32", platform="cpu"))
    assert program(1.0) == -1.0
