"""Notes are printed once, and never to stdout."""

from tpr_jax.utils import notices


def test_prints_a_line_once_to_stderr(capsys):
    notices.print_once.cache_clear()
    for line in ("a", "b", "a"):
        notices.print_once(line)
    assert capsys.readouterr() == ("", "note: a\nnote: b\n")
