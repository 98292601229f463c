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
