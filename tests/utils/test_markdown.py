"""Markdown tables, and the sections of a page that a program fills in."""

import pytest

from tpr_jax.errors import UserError
from tpr_jax.utils import markdown


def test_renders_a_table():
    assert markdown.table(["", "seconds"], [["save", "2.4"], ["restore", "10"]]).splitlines() == [
        "|  | seconds |",
        "| --- | ---: |",
        "| save | 2.4 |",
        "| restore | 10 |",
    ]


def test_aligns_and_pads_the_columns():
    assert markdown.table(["a", "model"], [["longer", "b"]], align="rl", pad=True).splitlines() == [
        "|      a | model |",
        "|   ---: | ---   |",
        "| longer | b     |",
    ]


def test_rejects_a_row_of_another_length():
    with pytest.raises(ValueError, match="shorter"):
        markdown.pad_columns([["a", "b"], ["c"]])


def test_escapes_what_would_end_a_cell():
    assert markdown.escape("a|b") == "a\\|b"


def test_replaces_a_section_and_keeps_the_rest():
    page = "a\n<!-- t -->\nold\n<!-- /t -->\nb\n"
    once = markdown.replace_section(page, "t", "new")
    assert once == "a\n<!-- t -->\nnew\n<!-- /t -->\nb\n" == markdown.replace_section(once, "t", "new")
    with pytest.raises(UserError, match="<!-- t -->"):
        markdown.replace_section("nothing", "t", "new")
