"""Checkpoints of other programs: wrappers, shards, files of NumPy; `test_torch_archive` has PyTorch's."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from tpr_jax.errors import UserError
from tpr_jax.weights.checkpoint import read_checkpoint, split_entries

A, B = np.arange(3.0), np.ones((2, 2), np.float16)


@pytest.mark.parametrize(
    ("content", "skipped"),
    [
        ({"a": A, "b": B}, []),
        ({"model": {"a": A, "b": B}, "optimizer": {"state": {}}, "epoch": 3}, ["optimizer", "epoch"]),
        ({"epoch": 3, "state_dict": {"a": A, "b": B, "note": "x"}}, ["epoch", "note"]),
        ({"model": {"state_dict": {"a": A, "b": B}, "ema": None}, "lr": 1.0}, ["lr", "ema"]),
    ],
)
def test_wrappers(content, skipped):
    arrays, others = split_entries(content)
    assert list(arrays) == ["a", "b"] and others == skipped


def test_prefixes_types_and_files(tmp_path):
    np.savez(tmp_path / "w.npz", **{"module.a": A, "module.b": B})
    found = read_checkpoint(tmp_path / "w.npz")
    assert list(found.state) == ["a", "b"] and found.files == (tmp_path / "w.npz",) and found.skipped == ()
    np.testing.assert_array_equal(found.state["a"], A)
    assert found.state["b"].dtype == np.float16


def test_shards(tmp_path):
    save_file({"a": A}, tmp_path / "m-1.safetensors")
    save_file({"b": B}, tmp_path / "m-2.safetensors")
    index = tmp_path / "m.safetensors.index.json"
    weight_map = {"a": "m-1.safetensors", "b": "m-2.safetensors"}
    index.write_text(json.dumps({"weight_map": weight_map}))
    for source in (tmp_path, index):
        assert sorted(read_checkpoint(source).state) == ["a", "b"]
    index.write_text(json.dumps({"weight_map": weight_map | {"c": "m-3.safetensors"}}))
    with pytest.raises(UserError, match=r"m-3.safetensors: no such weights file"):
        read_checkpoint(index)


def test_unusable_files(tmp_path):
    with pytest.raises(UserError, match=r"w.npz: no such weights file"):
        read_checkpoint(tmp_path / "w.npz")
    np.savez(tmp_path / "w.npz", a=np.array({"x": 1}, object))
    with pytest.raises(UserError, match=r"w.npz: not a complete .npz file of arrays"):
        read_checkpoint(tmp_path / "w.npz")
    np.savez(tmp_path / "w.npz")
    with pytest.raises(UserError, match=r"w.npz: holds no arrays under names"):
        read_checkpoint(tmp_path / "w.npz")
    with pytest.raises(UserError, match=r"model.safetensors: no such file"):
        read_checkpoint(tmp_path)
    (tmp_path / "w.ckpt").write_bytes(b"x")
    with pytest.raises(UserError, match=r"w.ckpt: unknown kind of weights file"):
        read_checkpoint(tmp_path / "w.ckpt")
