"""Cleaning text as CLIP's own tokenizer does: values worked by hand, and its formula written plainly."""

import html
import re
import subprocess
import sys

import ftfy
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tpr_jax.data.clean_text import clean, is_empty, replace_surrogates
from tpr_jax.data.tokenizer import clip_tokenizer

CASES = [
    ("she\u00e2\u0080\u0099s in a caf\u00c3\u00a9", "she's in a caf\u00e9"),
    (
        "he\u00e2\u20ac\u2122s wearing a \u00e2\u20ac\u0153red\u00e2\u20ac\ufffd coat",
        "he's wearing a \"red\ufffd coat",
    ),
    ("a &lt;b&gt;woman&lt;/b&gt; &amp;amp; a man", "a <b>woman</b> & a man"),
    ("x\u0085y", "x\u2026y"),
    ("&EACUTE;COLE jacket", "\u00e9cole jacket"),
    ("\ufb01ne \ufb02oral dress", "fine floral dress"),
    ("\uff11\uff12 buttons", "12 buttons"),
    ("\uff21 red coat", "a red coat"),
    ("a\u00a0woman\u2003in\u3000red", "a woman in red"),
    ("it\u2019s a man\u2019s \u201chat\u201d", "it's a man's \"hat\""),
    ("\ufeffA man", "a man"),
    ("\u00c3\u00bcn\u00c3\u00afcode jacket", "\u00fcn\u00efcode jacket"),
    ("it\u00c3\u00a2\u00e2\u201a\u00ac\u00e2\u201e\u00a2s", "it's"),  # decoded wrongly twice
    ("tom &amp; jerry shirt &#39;x&#39;", "tom & jerry shirt 'x'"),
    ("a\u200bman", "a\u200bman"),
    ("e\u0301t\u00e9", "\u00e9t\u00e9"),
    ("\u00bd sleeve", "\u00bd sleeve"),
    ("a man \u2026 walking", "a man \u2026 walking"),
    ("red\u0092s coat", "red's coat"),
    # In text with a "<", which may be markup, ftfy leaves entities alone; CLIP then unescapes them twice.
    ("a < b &amp;amp; c", "a < b & c"),
    ("a < b &amp;amp;amp; c", "a < b &amp; c"),
    ("5 < 6 &amp;lt;p&amp;gt;", "5 < 6 <p>"),
    ("A\r\n\tb\u2028c\x00d\x7f", "a b cd"),
    ("\x1b[36;44mred\x1b[0m", "red"),
    ("Schn\u00c3\u00bcrschuhe f\u00c3\u00bcr 5\u00e2\u201a\u00ac", "schn\u00fcrschuhe f\u00fcr 5\u20ac"),
    ("красная куртка".encode().decode("latin-1"), "красная куртка"),
    ("\ud83d\ude00 \ud83d", "\U0001f600 \ufffd"),
    ("\u2009a  b ", "a b"),
    ("", ""),
    ("ﬁne ﬂat", "fine flat"),
    ("ＡＢＣ　１", "abc 1"),
    ("“a” ‘b’", "\"a\" 'b'"),
    ("&amp;amp; &lt;b&gt; &ldquo;x&rdquo;", '& <b> "x"'),
    ("a\r\n\tb\u2028c\x00d\x7f\ufeff", "a b cd"),
    ("cafe\u0301", "café"),
    ("it\x92s", "it's"),
    ("Itâ€™s a cafÃ© Â£5 â€œbagâ€\x9d", 'it\'s a café £5 "bag"'),
    ("âge château Ãge naïve", "âge château ãge naïve"),
    ("\x1b[36;44mred\x1b[0m", "red"),
    ("\ud83d\ude00 \ud83d", "😀 \ufffd"),
    ("Σ ΣΑΣ İ", "σ σας i̇"),
]  # fmt: skip


def as_clip(text: str) -> str:
    """Applies `basic_clean`, then `whitespace_clean`, then lower case, as CLIP describes them."""
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return re.sub(r"\s+", " ", text).strip().lower()


@pytest.mark.parametrize(("text", "expected"), CASES, ids=lambda value: ascii(value)[:40])
def test_values_worked_by_hand(text, expected):
    assert clean(text) == expected
    if clean(expected) == expected:  # else what is left is an entity
        clip = clip_tokenizer()
        assert clip([text]).tolist() == clip([expected]).tolist()


@given(
    st.text(st.characters(exclude_categories=()), max_size=200) | st.text("&amp;#39<>lt \u00c3\u00a9\x0b\x1c")
)
@settings(deadline=None, max_examples=300)
@example("&amp;amp;amp; x")
@example("<&amp;amp;amp;")
@example("\x0b\x0c\x1c\x1d\x1e\x1f\x85\u2028\u2029")
def test_any_text_is_cleaned_as_clip_does(text):
    assert clean(text) == as_clip(text)


@pytest.mark.parametrize("code", range(128))
def test_every_ascii_character_within_a_text(code):
    """The shortcut for plain texts must equal the general path."""
    for text in (f"A{chr(code)}B", f"{chr(code)}a", f"a{chr(code)}{chr(code)}"):
        assert clean(text) == as_clip(text)


def test_surrogates():
    assert replace_surrogates("a\ud83d\ude00b") == "a\U0001f600b"
    assert replace_surrogates("\ud83d \udcff") == "\ufffd \ufffd"


def test_imports_ftfy_only_for_texts_that_need_it():
    code = (
        "import sys; from tpr_jax.data.tokenizer import clip_tokenizer; clip = clip_tokenizer();"
        "clip(['A man, in red; 5\\' tall!']); assert 'ftfy' not in sys.modules;"
        "clip(['caf\\xe9']); assert 'ftfy' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "\ufeff",
        "&nbsp;",
        "&amp;nbsp; &#8203;",
        "\x07",
        "\0",
        "\u200b",
        "\u00ad\u200e",
        "\u2028",
        "\x1b[0m",
    ],
    ids=ascii,
)
def test_a_text_that_shows_nothing_is_empty(text):
    assert is_empty(text)


@pytest.mark.parametrize(
    "text",
    ["a", ".", "\ufeffa man", "&nbsp;a", "&amp;", "\u7537", "\u00e9", "\U0001f600", "\ud83d"],
    ids=ascii,
)
def test_a_text_that_shows_something_is_not_empty(text):
    assert not is_empty(text)


def test_emptiness_of_long_data_is_found_without_cleaning(monkeypatch):
    monkeypatch.setattr("tpr_jax.data.clean_text.repair", None)
    assert not any(map(is_empty, ("a man", "caf\xe9", "\u7537\u4eba", "a \u201cred\u201d coat\u200b")))
