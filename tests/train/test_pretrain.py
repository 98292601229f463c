"""Training on a data set without splits, and adapting from the folder of that run."""

import numpy as np
from ml_collections import ConfigDict

import tpr_jax
from tests import benchmark_folders
from tpr_jax.train import loop
from tpr_jax.utils.trees import flatten
from tpr_jax.weights import backbone
from tpr_jax.weights.clip import load_clip

SETTINGS = {"image_size": (48, 16), "total_steps": 1, "eval_every": 0, "batch_size": 4}


def test_pretrains_without_splits_and_adapts_from_the_run(make_config, tmp_path):
    folder = benchmark_folders.webperson(tmp_path / "set")
    changes = {"optimizer__lr": 0.01, "losses__balance": 0.0}
    config = make_config(dataset="webperson", data_dir=folder, **changes, **SETTINGS)
    config.method = ConfigDict({"name": "full_finetune"})
    pretrained = loop.train(config, tmp_path / "people")
    counts = {split: n["images"] for split, n in pretrained["data"]["counts"].items()}
    assert counts == {"train": 8, "val": 1, "test": 1}
    assert pretrained["final"]["test"]["t2i"]["R1"] == 100.0  # of one image

    adapted = loop.train(make_config(backbone=tmp_path / "people", **SETTINGS), tmp_path / "run")
    assert adapted["steps"] == 1
    model = tpr_jax.from_pretrained(tmp_path / "run" / "model")
    assert model.backbone is not None and model.backbone.path == tmp_path / "people" / "model"
    begun = flatten(load_clip(backbone.find(tmp_path / "people").path, (48, 16))[1])
    before = flatten(load_clip(config.backbone, (48, 16))[1])
    assert not np.allclose(begun["text/proj"], before["text/proj"])
    for path, leaf in flatten(model.variables["params"]).items():
        if path.startswith("text/block_0/mlp"):  # frozen in the adapted run
            np.testing.assert_array_equal(leaf, begun[path], err_msg=path)
