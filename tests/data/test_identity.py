"""Which spellings of ids mean the same person."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpr_jax.data.identity import normalize_id


@pytest.mark.parametrize(
    "same",
    [
        (7, 7.0, "7", " 7", "7\t", "\u00a07", "7.0", "7.00", "\uff17", "\ufeff7", "\u200b7", "'7", '="7"'),
        (-3, -3.0, "-3", " -3.0 "),
        (0, -0.0, 0.0, "0", "0.0"),
        (20231127153000123456, "20231127153000123456", " 20231127153000123456"),
        ("Zo\u00eb", "Zoe\u0308", " Zo\u00eb\n", "Zo\u00eb\u2028"),  # composed, and decomposed as on a Mac
        # Direction marks, joiners, a soft hyphen and control characters.
        (
            "anna",
            "anna\u200e",
            "\u202aanna\u202c",
            "an\u200dna",
            "an\u200cna",
            "an\u00adna",
            "anna\0",
            "\x7fanna",
        ),
        ("007", "'007", '="007"', ' ="007" '),
        ("anna b", "anna  b", "anna\u00a0b", "anna\x0bb"),
    ],
)
def test_spellings_of_one_id_are_equal(same):
    assert len({str(normalize_id(value)) for value in same}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("007", "7"),
        ("07", 7),
        ("7.1", "7"),
        ("7.10", "7.1"),
        ("Anna", "anna"),
        (20231127153000123456, 20231127153000123457),
        ("20231127153000123456", "20231127153000123457"),
        (2**53 + 1, float(2**53)),
        ("00.0", "0"),
        ("7.", "7"),
        ("anna b", "annab"),
        ("Zo\u00eb", "Zoe"),
        ("'t Hart", "t Hart"),
        ("'007'", "007"),
        ('="007"', "7"),
    ],
)
def test_different_ids_stay_different(one, other):
    assert str(normalize_id(one)) != str(normalize_id(other))


def test_numbers_of_64_bits_stay_numbers():
    assert [normalize_id(n) for n in (2**63 - 1, -(2**63), 7.0)] == [2**63 - 1, -(2**63), 7]
    assert [normalize_id(n) for n in (2**63, -(2**63) - 1)] == [str(2**63), str(-(2**63) - 1)]
    assert isinstance(normalize_id(7.0), int)


def test_returns_other_values_unchanged():
    assert normalize_id(True) is True and normalize_id(None) is None and normalize_id(7.5) == 7.5
    assert (
        math.isnan(normalize_id(math.nan))
        and normalize_id(math.inf) == math.inf
        and normalize_id(1e300) == 1e300
    )
    assert normalize_id(" \ufeff\n") == ""


@given(st.one_of(st.integers(), st.text(st.characters(exclude_categories=())), st.floats(allow_nan=False)))
def test_is_idempotent(value):
    found = normalize_id(value)
    assert normalize_id(found) == found and type(normalize_id(found)) is type(found)
