"""Archives of `torch.save`: read without PyTorch, and without running code."""

import argparse
import collections
import os
import sys

import numpy as np
import pytest

from tpr_jax.errors import UserError
from tpr_jax.weights.checkpoint import read_checkpoint

pytestmark = pytest.mark.torch


class Config(dict):
    """A config of a class that the reader does not know."""

    def __init__(self, **values):
        super().__init__(**values)
        self.list = [1, 2]


class Harmful:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def saved(torch, tmp_path):
    """Returns a checkpoint as training programs write it, and the weights in it."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    weights = dict(model.state_dict())
    weights |= {
        "half": torch.randn(2, 3).half(),
        "brain": torch.randn(3).bfloat16(),
        "turned": torch.randn(2, 3).T,
    }
    weights |= {"parameter": torch.nn.Parameter(torch.ones(2)), "empty": torch.zeros(0, 3)}
    state = collections.OrderedDict((f"module.{name}", tensor) for name, tensor in weights.items())
    content = {
        "model": state,
        "optimizer": optimizer.state_dict(),
        "config": Config(lr=3),
        "args": argparse.Namespace(lr=1e-4),
        "best": np.float64(0.7),
        "epoch": 3,
    }
    torch.save(content, tmp_path / "best.pth")
    return tmp_path / "best.pth", weights


def test_reads_the_weights_beside_unknown_objects(torch, saved, monkeypatch):
    path, weights = saved
    monkeypatch.setitem(sys.modules, "torch", None)
    found = read_checkpoint(path)
    assert set(found.state) == set(weights)
    assert set(found.skipped) == {"optimizer", "config", "args", "best", "epoch"}
    for name, tensor in weights.items():
        expected = tensor.detach().double().numpy()
        np.testing.assert_array_equal(found.state[name].astype(np.float64), expected, err_msg=name)


def test_does_not_run_code_in_a_file(torch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"w": torch.ones(2)}, "extra": Harmful()}, "w.pt")
    assert list(read_checkpoint(tmp_path / "w.pt").state) == ["w"]
    assert not (tmp_path / "harm").exists()


def test_truncated_and_odd_files(torch, saved, tmp_path):
    path, _ = saved
    whole = path.read_bytes()
    for keep in (0, 3, 100, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:keep])
        with pytest.raises(UserError, match=r"best.pth.*complete PyTorch file") as error:
            read_checkpoint(path)
        assert "\n" not in str(error.value)
    for content in (torch.ones(3), argparse.Namespace(a=1)):
        torch.save(content, path)
        with pytest.raises(UserError, match="it holds no named weights"):
            read_checkpoint(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(UserError, match="holds no arrays under names"):
        read_checkpoint(path)


def test_files_of_before_2020(torch, tmp_path):
    torch.save({"model": {"w": torch.ones(2)}}, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    assert list(read_checkpoint(tmp_path / "w.pt").state) == ["w"]
