"""The help of `tpr_jax.main`, and the options of `--mode eval`."""

import pytest

from tpr_jax.config.flags import parse_command
from tpr_jax.errors import UserError
from tpr_jax.train import arguments


def command(tiny, *flags):
    return parse_command(["main", f"--config={tiny['config']}", "--workdir=w", *flags])


def test_help_has_every_flag():
    text = arguments.help_parser().format_help()
    flags = ("config", "workdir", "mode", "initial", "rerank", "vectors", "coordinator", "num_processes")
    for name in (*flags, "process_id", "peer_timeout", "compilation_cache"):
        assert f"--{name}" in text, name
    assert "--rerank all|NAME,NAME" in text and "--vectors SIZE,SIZE" in text


def test_options_of_an_evaluation(tiny):
    plain = command(tiny, "--mode=eval")
    assert (arguments.rerank_names(plain), arguments.vector_sizes(plain)) == ([], [])
    asked = command(tiny, "--mode=eval", "--rerank=qb_norm,nnn", "--vectors=8,4")
    assert (arguments.rerank_names(asked), arguments.vector_sizes(asked)) == (["nnn", "qb_norm"], [8, 4])


@pytest.mark.parametrize("flag", ["--rerank=best", "--vectors=none"])
def test_invalid_options_are_one_line(tiny, flag):
    asked = command(tiny, "--mode=eval", flag)
    read = arguments.rerank_names if "rerank" in flag else arguments.vector_sizes
    with pytest.raises(UserError, match=flag.split("=")[0]):
        read(asked)
