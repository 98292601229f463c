"""Annotated shapes are enforced in the tests' process."""

import importlib
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

from tests.typed import CHECK_THEMSELVES
from tpr_jax.utils.normalize import l2_normalize


def test_an_array_of_the_wrong_shape_or_type_is_an_error():
    for feats in (np.ones(3), np.ones((2, 3), int)):
        with pytest.raises(jaxtyping.TypeCheckError, match="feats"):
            l2_normalize(feats)


@pytest.mark.parametrize("name", sorted(CHECK_THEMSELVES))
def test_excluded_modules_exist_and_annotate_shapes(name):
    assert "jaxtyping" in Path(importlib.import_module(name).__file__).read_text()


def test_of_functions_within_functions_those_with_annotations_are_checked(tmp_path, monkeypatch):
    """Others would only be wrapped anew in each call of the outer one."""
    source = """
from jaxtyping import Array, Float


def outer():
    def annotated(x: Float[Array, "a b"]):
        return x

    def returns(x) -> Float[Array, "a b"]:
        return x

    def plain(x):
        return x

    return annotated, returns, plain
"""
    (tmp_path / "nested_functions.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with jaxtyping.install_import_hook("nested_functions", "tests.typed.check_types"):
        annotated, returns, plain = importlib.import_module("nested_functions").outer()
    for function in (annotated, returns):
        with pytest.raises(jaxtyping.TypeCheckError):
            function(np.ones(3, np.float32))
    assert plain(3) == 3 and not hasattr(plain, "__wrapped__")
    assert annotated(np.ones((2, 3), np.float32)).shape == (2, 3)
