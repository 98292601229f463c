"""The command that a finished run proposes."""

import shlex
from pathlib import Path

import pytest
from PIL import Image

from tpr_jax.search.arguments import parser as search_parser
from tpr_jax.search.index.build import build
from tpr_jax.train.summary import next_command
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


def test_own_photos_with_boxes_are_searched_by_their_boxes(tiny, tmp_path):
    Image.new("RGB", (60, 50)).save(tmp_path / "a.png")
    for head, line in (("camera", "3"), ("x,y,w,h", "1,2,20,40")):
        table = tmp_path / "captions.csv"
        table.write_text(f"image,caption,id,split,{head}\na.png,a red coat,1,train,{line}\n")
        expected = table if head == "x,y,w,h" else tmp_path
        _, arguments = words("dm_adapter", "folder", str(tmp_path))
        assert search_parser().parse_args(arguments).photos == str(expected)
    assert build(expected, tmp_path / "index", tiny["clip"])["count"] == 1  # which takes such a table


@pytest.mark.parametrize("data_dir", ["", "here"])
def test_results_of_a_benchmark_are_shown(data_dir):
    module, arguments = words("dm_adapter", "icfg_pedes", data_dir)
    args = visualize_parser().parse_args(arguments)
    assert module == "tpr_jax.visualize" and args.command == "grid" and args.dataset == "icfg_pedes"
    assert args.data_dir == (data_dir or None)


def test_another_method_is_tried_on_mini_pedes():
    assert words("dm_adapter", "mini_pedes")[1][:2] == ["--config", "configs/parallel_adapter.py"]
    assert words("parallel_adapter", "mini_pedes")[0] == "tpr_jax.compare"
