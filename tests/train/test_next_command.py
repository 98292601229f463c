"""The command that a finished run proposes."""

import shlex
from pathlib import Path

import pytest

from tpr_jax.search.arguments import parser as search_parser
from tpr_jax.train.results import next_command
from tpr_jax.visualize.__main__ import parser as visualize_parser


def words(method, dataset, data_dir=""):
    python, option, module, *arguments = shlex.split(
        next_command(method, dataset, Path("my runs/a"), data_dir)
    )
    assert (python, option) == ("python", "-m")
    return module, arguments


def test_own_photos_are_searched():
    module, arguments = words("dm_adapter", "folder", "my photos")
    args = search_parser().parse_args(arguments)
    assert module == "tpr_jax.search" and args.command == "index"
    assert (args.photos, args.index, args.model) == ("my photos", "my runs/a/index", "my runs/a/model")


@pytest.mark.parametrize("data_dir", ["", "here"])
def test_results_of_a_benchmark_are_shown(data_dir):
    module, arguments = words("dm_adapter", "icfg_pedes", data_dir)
    args = visualize_parser().parse_args(arguments)
    assert module == "tpr_jax.visualize" and args.command == "grid" and args.dataset == "icfg_pedes"
    assert args.data_dir == (data_dir or None)


def test_another_method_is_tried_on_mini_pedes():
    assert words("dm_adapter", "mini_pedes")[1][:2] == ["--config", "configs/parallel_adapter.py"]
    assert words("parallel_adapter", "mini_pedes")[0] == "tpr_jax.compare"
