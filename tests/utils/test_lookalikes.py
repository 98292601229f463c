"""Names that look the same: which ones, and how the difference is told."""

import pytest

from tpr_jax.utils.lookalikes import describe_lookalike, look_same


@pytest.mark.parametrize(
    ("wanted", "found", "told"),
    [
        ("caf\u00e9", "cafe\u0301", "it has U+0065 U+0301 (\u00e9) for U+00E9 (\u00e9) at position 4"),
        ("a b", "a\u00a0b", "it has U+00A0 for U+0020 at position 2"),
        ("image", "im\u0430ge", "it has U+0430 (\u0430) for U+0061 (a) at position 3"),
        ("image", "\u200bimage", "it also has U+200B at position 1"),
        ("a\u200bb", "ab", "it lacks U+200B after position 1"),
        ("a-1.jpg", "a\u20131.JPG", "it has U+2013 (\u2013) for U+002D (-) at position 2; it has U+004A"),
    ],
)
def test_tells_the_letters(wanted, found, told):
    text = describe_lookalike(wanted, ["other", found])
    assert text.startswith(f", but '{found}' is there, which differs: {told}")


def test_case_alone_is_told_in_words():
    assert describe_lookalike("kamera", ["Kamera"]) == ", but 'Kamera' is there, with other capitals"


def test_other_names_are_not_lookalikes():
    assert describe_lookalike("a.jpg", ["a.jpg", "b.jpg", "a.png"]) == ""
    assert not look_same("caf\u00e9", "cafe") and look_same("IMG_1.JPG", "img_1.jpg")
