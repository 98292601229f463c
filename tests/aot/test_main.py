"""The command that compiles ahead of time, on virtual devices."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from tpr_jax.aot import __main__ as aot
from tpr_jax.config.flags import parse_flags
from tpr_jax.errors import UserError

ROOT = Path(__file__).parents[2]


def command(*flags) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-m", "tpr_jax.aot", *map(str, flags)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_compiles_for_four_devices_and_reports(tiny, tmp_path):
    """Each of four devices has 4 of 16 rows; gradients are summed over all four."""
    done = command(
        *("--config", tiny["config"], "--topology", "cpu:4", "--batch_size", 16, "--workdir", tmp_path),
        *("--config.eval_batch_size=8",),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "aot.json").read_text())
    assert (report["devices"], report["mesh"], report["batch_size"]) == (4, {"data": 4, "model": 1}, 16)
    step = report["programs"]["train_step"]
    memory = step["memory"]
    assert memory["batch"] == 4 * (32 * 16 * 3 + 24 * 4 + 4)
    assert memory["total"] == sum(memory.values()) - memory["total"]
    assert memory["optimizer"] > 2 * memory["trainable"]
    # A ring all-reduce sends at least 3/4 of the gradients twice.
    assert step["collectives"]["all-reduce"]["bytes"] >= 2 * 0.75 * memory["trainable"]
    assert 1 <= step["flops"]["ratio_all_experts"] < step["flops"]["ratio"] < 3
    assert step["roofline"] is None  # unknown for a CPU
    assert report["programs"]["encode_image"]["collectives"].keys() == {"all-gather"}
    assert "train_step" in done.stdout and (tmp_path / "aot.txt").read_text() in done.stdout


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--topology", "v5e4x4"), "did you mean 'v5e:4x4'"),
        ((), "--topology is missing"),
        (("--topology", "here", "--batch_size", "3.5"), "batch_size"),
        (("--topology", "here", "--only", "training"), "--only training is unknown"),
        (("--topology", "here", "--config.lr=1"), "config.lr is unknown"),
    ],
)
def test_reports_unusable_flags_in_one_line(tiny, flags, told):
    with pytest.raises(UserError) as error:
        aot.run(["aot", "--config", tiny["config"], *flags])
    assert told in str(error.value) and "\n" not in str(error.value)


def test_exits_with_2_for_a_batch_that_does_not_divide(tiny, tmp_path):
    done = command(
        "--config", tiny["config"], "--topology", "cpu:4", "--batch_size", 6, "--workdir", tmp_path / "x"
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "config.batch_size=6 must be a multiple of the 4 devices" in done.stderr
    assert not (tmp_path / "x").exists()


def test_settings_to_try_start_with_the_cheapest():
    """Arguments hold 10 of 16 bytes, 40 are needed: the other 30 must go into microbatches of under 5.4."""
    config = SimpleNamespace(remat="none", accumulate=1, batch_size=64)
    found = aot.settings_to_try(config, {"available": 16.0, "needed": 40.0}, argument_bytes=10, data=4)
    assert found[:2] == [{"remat": "dots"}, {"remat": "block"}]
    assert found[2:] == [{"accumulate": 8}, {"accumulate": 16}, {"remat": "block", "accumulate": 8}]
    config.remat = "block"
    found = aot.settings_to_try(config, {"available": 9.0, "needed": 40.0}, argument_bytes=10, data=4)
    assert found[0] == {"accumulate": 16}  # none suffices, so the largest possible number


def test_tries_settings_until_one_fits(monkeypatch):
    """Compiling with 'dots' does not fit, with 'block' it does."""
    tried, said = [], []

    def compile_(config, mesh, only, identities, tell):
        tried.append((config.remat, config.accumulate))
        return {"train_step": {"memory": 1} if config.remat == "block" else {"shortage": {}}}

    from ml_collections import ConfigDict

    monkeypatch.setattr(aot, "_compile", compile_)
    config = ConfigDict({"remat": "none", "accumulate": 1, "batch_size": 64})
    mesh = SimpleNamespace(shape={"data": 4})
    short = {"shortage": {"available": 16.0, "needed": 40.0}, "held": {"all": 10}}
    found = aot._find_fitting_settings(config, mesh, short, None, said.append)
    assert found == {"remat": "block", "memory": 1}
    assert tried == [("dots", 1), ("block", 1)]
    assert said[-1] == "it fits with --config.remat=block"


def test_a_compiled_step_that_exceeds_the_memory_does_not_fit(tiny, monkeypatch):
    """Compilers of GPUs do not refuse it. Here it needs more than what 'dots' does."""
    needed = []

    def shortage(kind, total):
        assert kind == jax.devices()[0].device_kind
        needed.append(total)
        return {"needed": total, "available": 1000, "missing": total - 1000} if len(needed) == 1 else None

    monkeypatch.setattr(aot.gpus, "shortage", shortage)
    config = parse_flags(["main", "--config", tiny["config"], "--workdir", "unused"])[0]
    report = aot.compile_all(config, "here", only=("train_step",))
    step = report["programs"]["train_step"]
    assert step["shortage"]["needed"] == needed[0] > sum(step["held"].values()) > 0
    assert report["helps"]["remat"] == "dots" and report["lines"][-1] == "it fits with --config.remat=dots"


@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is None, reason="JAX's CUDA plugin is not installed"
)
def test_compiles_for_gpus(tiny, tmp_path):
    done = command(
        *("--config", tiny["config"], "--topology", "h100:4", "--batch_size", 32, "--workdir", tmp_path),
        *("--config.eval_batch_size=16", "--config.dtype=bfloat16"),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "aot.json").read_text())
    step = report["programs"]["train_step"]
    assert (report["devices"], report["device_kind"]) == (4, "NVIDIA H100 80GB HBM3")
    assert step["kernels"] > 100 and step["roofline"]["bound"] == "memory"
    assert step["collectives"]["all-reduce"]["bytes"] > 0
    assert 1 <= step["flops"]["ratio_all_experts"] < step["flops"]["ratio"] < 3


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: the tests of requirements-aot.txt's environment",
)
def test_compiles_for_a_slice(tiny, tmp_path):
    done = command(
        *("--config", tiny["config"], "--topology", "v5e:4x4", "--batch_size", 32, "--workdir", tmp_path),
        *("--config.eval_batch_size=16", "--config.dtype=bfloat16"),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    step = json.loads((tmp_path / "aot.json").read_text())["programs"]["train_step"]
    assert step["roofline"]["bound"] in ("products", "memory", "interconnect")
    assert step["collectives"]["all-reduce"]["bytes"] > 0
