"""The processes of a run must agree, and a difference is reported."""

import json

import jax
import numpy as np
import pytest

from tpr_jax.data.records import Records
from tpr_jax.distributed import processes
from tpr_jax.errors import UserError
from tpr_jax.train import agreement


def records(folder: str, **changes) -> Records:
    values = {
        "name": "x:train",
        "image_paths": [f"{folder}/imgs/a/1.jpg", f"{folder}/imgs/b/2.jpg"],
        "captions": [["one", "two"], ["three"]],
        "pids": np.array([3, 4]),
    }
    return Records(**values | changes)


def test_data_digest_ignores_the_folder():
    one, other = (agreement.of_data({"train": records(folder)}) for folder in ("/mnt/a", "/data"))
    assert one == other and (one["train"]["images"], one["train"]["captions"]) == (2, 3)
    for change in (
        {"captions": [["one", "two"], ["four"]]},
        {"pids": np.array([3, 5])},
        {"image_paths": ["/mnt/a/imgs/a/1.jpg", "/mnt/a/imgs/b/3.jpg"]},
        {"boxes": [None, (0, 0, 4, 4)]},
    ):
        assert agreement.of_data({"train": records("/mnt/a", **change)}) != one


def test_command_ignores_paths():
    config = {"seed": 0, "data_dir": "/a", "backbone": "/b", "mix": [["icfg_pedes", "/c", 0.5]]}
    moved = {"seed": 0, "data_dir": "/x", "backbone": "/y", "mix": [["icfg_pedes", "/z", 0.5]]}
    assert agreement.of_command(config, "train") == agreement.of_command(moved, "train")
    for other in (config | {"seed": 1}, config | {"mix": [["icfg_pedes", "/c", 0.6]]}, config | {"extra": 1}):
        assert agreement.of_command(config, "train") != agreement.of_command(other, "train")
    assert agreement.of_command(config, "train") != agreement.of_command(config, "eval")
    assert agreement.of_command(config, "eval") != agreement.of_command(config, "eval", ["nnn"])


def test_weights_digest_sees_a_difference():
    tree = {"a": {"b": np.ones(3, np.float32)}}
    assert agreement.of_weights(tree) == agreement.of_weights({"a": {"b": np.ones(3, np.float32)}})
    assert agreement.of_weights(tree) != agreement.of_weights({"a": {"b": np.float32([1, 1, 2])}})


@pytest.mark.parametrize(
    ("third", "told"),
    [
        ({"config": {"seed": 0, "lr": 0.1}}, None),
        ({"config": {"seed": 1, "lr": 0.1}}, "config.seed is 1 instead of 0"),
        ({"config": {"seed": 0}}, "config.lr is None instead of 0.1"),
        ({"config": {"seed": 0, "lr": 0.1}, "more": 2}, "more is 2 instead of None"),
    ],
)
def test_names_the_first_difference(monkeypatch, third, told):
    mine = {"config": {"seed": 0, "lr": 0.1}}
    everyone = {str(i): json.dumps(one) for i, one in enumerate([mine, mine, third])}
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(processes, "all_gather_dict", lambda said: everyone)
    if told is None:
        agreement.check_same("command", mine, "start the same")
        return
    with pytest.raises(UserError) as error:
        agreement.check_same("command", mine, "start the same")
    expected = f"process 2 was started with another command than process 0: {told}: start the same"
    assert str(error.value) == expected


def test_one_process_agrees_with_itself():
    agreement.check_same("command", {"not even": {"json"}}, "")
