import jax
import pytest

from tpr_jax.perf import dtypes


@pytest.mark.parametrize(
    ("backend", "native", "ynnpack", "processes", "expected"),
    [
        ("cpu", True, True, 1, "bfloat16"),
        ("cpu", False, True, 1, "float32"),
        ("cpu", True, False, 1, "float32"),
        ("cpu", True, True, 2, "float32"),
        ("gpu", False, True, 1, "bfloat16"),
        ("tpu", False, True, 4, "bfloat16"),
    ],
)
def test_computes_in_bfloat16_where_the_hardware_multiplies_it(
    monkeypatch, backend, native, ynnpack, processes, expected
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    monkeypatch.setattr(dtypes, "has_bfloat16_products", lambda: native)
    monkeypatch.setattr(dtypes, "has_ynnpack", lambda: ynnpack)
    assert dtypes.faster() == dtypes.resolve("auto") == expected
    assert [dtypes.resolve(name) for name in ("float32", "bfloat16")] == ["float32", "bfloat16"]
