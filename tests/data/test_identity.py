"""Which ids are one person's."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpr_jax.data.identity import identity


@pytest.mark.parametrize(
    "same",
    [
        (7, 7.0, "7", " 7", "7\t", "\u00a07", "7.0", "7.00", "\uff17", "\ufeff7", "\u200b7"),
        (-3, -3.0, "-3", " -3.0 "),
        (0, -0.0, 0.0, "0", "0.0"),
        (20231127153000123456, "20231127153000123456", " 20231127153000123456"),
        ("Zo\u00eb", "Zoe\u0308", " Zo\u00eb\n", "Zo\u00eb\u2028"),  # composed, and decomposed as on a Mac
        ("anna b", "anna  b", "anna\u00a0b", "anna\x0bb"),
    ],
)
def test_one_person(same):
    assert len({str(identity(value)) for value in same}) == 1


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
    ],
)
def test_two_people(one, other):
    assert str(identity(one)) != str(identity(other))


def test_numbers_of_64_bits_stay_numbers():
    assert [identity(n) for n in (2**63 - 1, -(2**63), 7.0)] == [2**63 - 1, -(2**63), 7]
    assert [identity(n) for n in (2**63, -(2**63) - 1)] == [str(2**63), str(-(2**63) - 1)]
    assert isinstance(identity(7.0), int)


def test_what_is_no_id_stays_as_it_is():
    assert identity(True) is True and identity(None) is None and identity(7.5) == 7.5
    assert math.isnan(identity(math.nan)) and identity(math.inf) == math.inf and identity(1e300) == 1e300
    assert identity(" \ufeff\n") == ""


@given(st.one_of(st.integers(), st.text(st.characters(exclude_categories=())), st.floats(allow_nan=False)))
def test_an_identity_is_its_own(value):
    found = identity(value)
    assert identity(found) == found and type(identity(found)) is type(found)
