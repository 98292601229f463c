"""A mistake in a command line is one line."""

import pytest

from tpr_jax.arguments import Parser
from tpr_jax.errors import UserError


@pytest.mark.parametrize("line", ["--seed 1", "find --seed 1", "find --top_k x", "lose"])
def test_a_mistake_says_where_the_help_is(line, capsys):
    parser = Parser(prog="python -m tpr_jax.some")
    find = parser.add_subparsers().add_parser("find")
    find.add_argument("--top_k", type=int)
    with pytest.raises(UserError, match=r"; see python -m tpr_jax\.some --help$"):
        parser.parse_args(line.split())
    assert capsys.readouterr() == ("", "")
