"""Notices: each once, and never where a program's output is read."""

from tpr_jax.utils import notices


def test_a_line_is_said_once_and_to_stderr(capsys):
    notices.say_once.cache_clear()
    for line in ("a", "b", "a"):
        notices.say_once(line)
    assert capsys.readouterr() == ("", "note: a\nnote: b\n")
