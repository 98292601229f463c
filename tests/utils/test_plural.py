"""Numbers with their nouns."""

import pytest

from tpr_jax.utils.plural import counted


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((1, "photo"), "1 photo"),
        ((0, "photo"), "0 photos"),
        ((3400, "photo"), "3,400 photos"),
        ((2, "identity", "identities"), "2 identities"),
        ((1, "person", "people"), "1 person"),
    ],
)
def test_counted(words, expected):
    assert counted(*words) == expected
