"""Ids that cannot be used, and ids that only look odd."""

import pytest

from tpr_jax.data.id_checks import why_id_invalid


@pytest.mark.parametrize("pid", ["1.70E+15", "1,70E+15", "-1.7E+12", "1E+11", "1.2345678e+17"])
def test_numbers_that_a_spreadsheet_shortened(pid):
    assert why_id_invalid(pid, is_custom=True) == (
        f"id '{pid}' looks like a number that a spreadsheet shortened, so that different people would be "
        "one: format the column as text and export it again"
    )


@pytest.mark.parametrize("pid", ["#REF!", "#N/A", "#VALUE!", "#NAME?", "#DIV/0!"])
def test_errors_of_spreadsheets(pid):
    assert f"id '{pid}' is an error of a spreadsheet" in why_id_invalid(pid, is_custom=True)


@pytest.mark.parametrize("pid", ["##", "########"])
def test_numbers_that_were_not_shown(pid):
    assert "widen the column" in why_id_invalid(pid, is_custom=True)


@pytest.mark.parametrize(
    "pid", ["1e5", "2E05", "1.5E7", "12.70E+15", "E+15", "#7", "#", "# # #", "#REF", "007", 7, -7, 2**63 - 1]
)
def test_ids_that_people_write(pid):
    assert why_id_invalid(pid, is_custom=True) == ""


@pytest.mark.parametrize("pid", [True, None, "", " ", [1], 2**63])
def test_values_that_are_no_id(pid):
    told = f"field 'id' is {pid!r}: must be a whole number"
    assert why_id_invalid(pid, is_custom=False) == told
    assert why_id_invalid(pid, is_custom=True) == f"{told} or a name"


@pytest.mark.parametrize("pid", [3.5, 1e20, 12345678901234567.0])
def test_numbers_with_a_fraction_or_too_many_digits(pid):
    told = f"field 'id' is {pid!r}: must be a whole number"
    assert why_id_invalid(pid, is_custom=False) == told
    assert why_id_invalid(pid, is_custom=True) == f"{told} or a name in quotes"


def test_names_only_in_own_data():
    assert why_id_invalid("anna", is_custom=True) == ""
    assert why_id_invalid("anna", is_custom=False) == "field 'id' is 'anna': must be a whole number"


def test_half_a_character_is_no_name():
    told = "field 'id' is '\\ud83d': is not valid Unicode: write another name"
    assert why_id_invalid("\ud83d", is_custom=True) == told
