"""The arguments of `python -m tpr_jax.search`."""

import pytest

from tpr_jax.errors import UserError
from tpr_jax.search.__main__ import main
from tpr_jax.search.arguments import parser


def test_the_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0 and "python -m tpr_jax.search query" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["index", "photos"], ["query", "text"], ["serve"], ["export", "--out=a.parquet"]]
)
def test_each_command_needs_an_index(words):
    assert parser().parse_args([*words, "--index", "i"]).index == "i"
    with pytest.raises(UserError, match="--index"):
        parser().parse_args(words)
