"""--config.debug=True reduces every config, on every data set, to a small run of the same method."""

import json
import runpy
from pathlib import Path

import pytest

from tests.config_files import ABLATIONS, DATASETS, FOLDER, NAMES, PRETRAIN, rows_of
from tests.tiny_clip import quick_compilation  # noqa: F401 (a fixture for the whole module)
from tpr_jax.config import defaults as config_lib
from tpr_jax.config.debug import BLOCKS, DEPTHS, FEATURE_SIZE, SMALL, shrink
from tpr_jax.config.flags import parse_flags
from tpr_jax.models import methods
from tpr_jax.train import loop
from tpr_jax.weights.backbone import clip_mini_dir
from tpr_jax.weights.clip import read_sizes

SIZES = read_sizes(Path(clip_mini_dir()))


def parsed(name, argument="", *flags):
    path = str(FOLDER / f"{name}.py") + (f":{argument}" if argument else "")
    return parse_flags(["main", "--config", path, "--workdir", "w", *flags])[0]


def arguments(name):
    if name in PRETRAIN:
        return [()]
    if name in ABLATIONS:
        return [(f"{row},cuhk_pedes",) for row in rows_of(name, "cuhk_pedes")]
    return [(dataset,) for dataset in DATASETS]


def test_clip_mini_has_the_stated_sizes():
    assert (min(SIZES.vision_layers, SIZES.text_layers), SIZES.embed_dim) == (BLOCKS, FEATURE_SIZE)


@pytest.mark.parametrize("name", NAMES)
def test_every_config_shrinks_and_keeps_method_losses_and_optimizer(name):
    get_config = runpy.run_path(str(FOLDER / f"{name}.py"))["get_config"]
    for argument in arguments(name):
        whole, config = (get_config(*argument) for _ in range(2))
        shrink(config)
        config_lib.check(config)
        assert config.debug and not whole.debug
        assert (config.dataset, config.data_dir, config.backbone) == ("mini_pedes", "", "clip-mini")
        methods.check(config_lib.make_method(config), SIZES)
        assert (config.total_steps, config.batch_size, config.image_size) == (4, 16, (96, 32))
        for part in ("losses", "optimizer"):
            assert config[part].to_dict() == whole[part].to_dict()
        changed = {key for key, value in config.method.items() if value != whole.method[key]}
        assert all("depth" in key and whole.method[key] > 3 for key in changed)


def test_keeps_keys_set_on_the_command_line(tiny):
    assert not parsed("dm_adapter").debug
    flags = ["--config.debug=True", "--config.batch_size=5", "--config.image_size=(64,32)"]
    config = parsed("dm_adapter", "cuhk_pedes", *flags)
    assert (config.batch_size, config.image_size, config.total_steps) == (5, (64, 32), 4)
    config = parsed("dm_adapter", "cuhk_pedes", "--config.debug", f"--config.data_dir={tiny['data']}")
    assert (config.dataset, config.data_dir, config.backbone) == ("cuhk_pedes", tiny["data"], "clip-mini")
    config = parsed("up_person", "icfg_pedes", "--config.debug", "--config.backbone=B")
    assert (config.dataset, config.backbone, config.text_length) == ("mini_pedes", "B", 0)
    config = parsed("irra", "rstp_reid", "--config.debug", "--config.dataset=ufine6926")
    assert (config.dataset, config.losses.mlm, config.mlm_depth) == ("ufine6926", 1, 4)
    assert not parsed("dm_adapter", "cuhk_pedes", "--noconfig.debug").debug


def test_keeps_the_feature_sizes_that_the_backbone_has():
    config = config_lib.base()
    config.matryoshka = (256, 128, 64)
    shrink(config)
    assert config.matryoshka == (64,)
    config.matryoshka = (256, 64)
    shrink(config, ["backbone"])
    assert config.matryoshka == (256, 64)


def run(name, argument, workdir, *flags):
    config = parsed(name, argument, "--config.debug", *flags)
    results = loop.train(config, workdir)
    assert results["steps"] == SMALL["total_steps"] and results["dataset"] == config.dataset
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert json.loads((workdir / "config.json").read_text())["debug"] is True
    assert (workdir / "report.html").is_file() and results["final"]["test"]["t2i"]["mAP"] > 0
    return results


def test_a_config_of_deeper_towers_runs(tiny, tmp_path):
    """It names blocks that towers of one block lack; `test_notebooks.py` has a debug run on MiniPEDES."""
    flags = ["--config.dataset=cuhk_pedes", f"--config.data_dir={tiny['data']}"]
    run("mixture", "rstp_reid", tmp_path / "run", *flags)


ON_ONE_BLOCK = [(name, "") for name in NAMES if name not in ("zero_shot", "mixture", *ABLATIONS)]


@pytest.mark.parametrize(("name", "row"), [*ON_ONE_BLOCK, ("ablation_dm_adapter", "top_6")])
def test_every_config_runs_on_towers_of_one_block(name, row, tiny, tmp_path):
    """Compiling takes most of the time of such a run, and clip-mini has four times as many blocks."""
    argument = "" if name in PRETRAIN else ",".join(filter(None, (row, "rstp_reid")))
    settings = parsed(name, argument).method
    depths = {key: int(key != "depth_adapter") for key in DEPTHS if isinstance(settings.get(key), int)}
    flags = {"backbone": tiny["clip"], "text_length": 0, **{f"method.{key}": n for key, n in depths.items()}}
    if name not in PRETRAIN:  # which name the files of MiniPEDES
        flags |= {"dataset": "cuhk_pedes", "data_dir": tiny["data"]}
    run(name, argument, tmp_path / "run", *(f"--config.{key}={value}" for key, value in flags.items()))
