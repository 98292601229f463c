"""Places in a page that a program fills."""

import pytest

from tpr_jax.errors import UserError
from tpr_jax.utils.markdown import put


def test_a_table_takes_the_place_of_the_one_before():
    page = "a\n<!-- t -->\nold\n<!-- /t -->\nb\n"
    once = put(page, "t", "new")
    assert once == "a\n<!-- t -->\nnew\n<!-- /t -->\nb\n" == put(once, "t", "new")
    with pytest.raises(UserError, match="<!-- t -->"):
        put("nothing", "t", "new")
