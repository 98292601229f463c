"""`~` is the home directory in every path on the command line of a run; `test_main.py` has its errors."""

import shutil
from pathlib import Path

import pytest

from tpr_jax.config import flags
from tpr_jax.config.flags import parse_flags


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return str(tmp_path)


def test_expands_absl_flags(home):
    argv = [
        "~/main",
        "--config=~/c.py:x",
        "-workdir",
        "~/w",
        "--mode",
        "~",
        "--config.a=~/x",
        "--note=~/x",
        "~/y",
    ]
    expanded = ["~/main", f"--config={home}/c.py:x", "-workdir", f"{home}/w", *argv[4:]]
    assert flags._expand_flags(argv, ("config", "workdir")) == expanded


def test_main_expands_its_paths(tiny, home):
    shutil.copy(tiny["config"], f"{home}/c.py")
    flags = ["--config=~/c.py", "--workdir=~/w", "--config.data_dir=~/d", "--config.backbone=~/b"]
    flags += ["--config.distill.teacher=~/t", "--config.distill.scores=1"]
    config, workdir, _ = parse_flags(["main", *flags, "--config.mix=(('rstp_reid', '~/m', 0.5),)"])
    assert (config.data_dir, config.backbone, workdir) == (f"{home}/d", f"{home}/b", Path(home, "w"))
    assert config.distill.teacher == f"{home}/t"
    assert config.mix == (("rstp_reid", f"{home}/m", 0.5),)
    config, *_ = parse_flags(["main", "--config=~/c.py", "--workdir=~/w"])
    assert config.data_dir == tiny["data"]
