import jax
import pytest

from tpr_jax.perf import dtypes


@pytest.mark.parametrize(
    ("backend", "amx", "processes", "expected"),
    [
        ("cpu", True, 1, "bfloat16"),
        ("cpu", False, 1, "float32"),
        ("cpu", True, 2, "float32"),
        ("gpu", False, 1, "bfloat16"),
        ("tpu", False, 4, "bfloat16"),
    ],
)
def test_computes_in_bfloat16_where_products_have_a_unit_for_it(
    monkeypatch, backend, amx, processes, expected
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    monkeypatch.setattr(dtypes, "has_bfloat16_matrix_unit", lambda: amx)
    assert dtypes.faster() == dtypes.resolve("auto") == expected
    assert [dtypes.resolve(name) for name in ("float32", "bfloat16")] == ["float32", "bfloat16"]
