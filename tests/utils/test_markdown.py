"""Sections of a page that a program fills."""

import pytest

from tpr_jax.errors import UserError
from tpr_jax.utils.markdown import replace_section


def test_replaces_the_section():
    page = "a\n<!-- t -->\nold\n<!-- /t -->\nb\n"
    once = replace_section(page, "t", "new")
    assert once == "a\n<!-- t -->\nnew\n<!-- /t -->\nb\n" == replace_section(once, "t", "new")
    with pytest.raises(UserError, match="<!-- t -->"):
        replace_section("nothing", "t", "new")
