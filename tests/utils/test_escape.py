"""Text that is safe to print."""

import pytest

from tpr_jax.utils.escape import escape_unprintable


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("tür 写真.jpg", "tür 写真.jpg"),
        ("new\nline\t.jpg", r"new\nline\t.jpg"),
        ("esc\x1b[31m.jpg", r"esc\x1b[31m.jpg"),
        ("a\u2028b\u202ec\udcff", r"a\u2028b\u202ec\udcff"),
    ],
)
def test_escapes_what_cannot_be_seen(text, escaped):
    assert escape_unprintable(text) == escape_unprintable(text, keep_blanks=True) == escaped


def test_blanks_of_other_widths():
    assert escape_unprintable("写真\u30001\u00a0.jpg") == r"写真\u30001\xa0.jpg"
    assert escape_unprintable("写真\u30001\u00a0.jpg\n", keep_blanks=True) == "写真\u30001\u00a0.jpg\\n"
