"""The speed and memory in a row of metrics.jsonl, and the profile."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from tests.train.test_resume import rows
from tpr_jax.models.config import ClipConfig
from tpr_jax.perf import chips, flops
from tpr_jax.train import loop, setup, throughput
from tpr_jax.train.throughput import Clock, Lap, Profiler, Throughput


def products(batch: int) -> float:
    """Computes the forward FLOPs of the tiny run (conftest.py) by hand: one block of width 64 per tower, 8
    patches and 24 words. Queries and MLP are computed for one token."""
    d, mlp, heads = 64, 128, 2 * 64 * 32
    tower = lambda tokens: 2 * tokens * d * 2 * d + (2 * d * d * 2 + 4 * tokens * d + 4 * d * mlp)  # noqa: E731
    return batch * (2 * 8 * 3 * 8 * 8 * d + tower(9) + tower(24) + 2 * heads)


def test_throughput_of_a_lap(make_config, monkeypatch):
    run = setup.prepare(make_config())
    row = Throughput(run).measure(Lap(5, 2.0, 0.5))
    assert row["examples_per_second"] == 20.0 and row["step_seconds"] == 0.4 and row["input_wait"] == 0.25
    assert list(row) == ["examples_per_second", "step_seconds", "input_wait", "model_flops_per_second"]
    # One forward pass and less than two backward passes, because most weights are frozen, plus the mixture.
    step = row["model_flops_per_second"] * 0.4
    assert products(8) < step < 4 * products(8)
    larger = dataclasses.replace(run, config=make_config(batch_size=16))
    assert Throughput(larger).measure(Lap(5, 2.0, 0.0))["model_flops_per_second"] == (
        pytest.approx(2 * step / 0.4, rel=0.02)  # the pairs of a batch grow faster
    )
    # A second caption of each image costs its text; here, half of the eight patches are a tenth of the step.
    two, half = (
        Throughput(dataclasses.replace(run, config=make_config(**changes))).measure(Lap(5, 2.0, 0.0))
        for changes in ({"captions_per_image": 2}, {"patch_dropout": 0.5})
    )
    assert two["model_flops_per_second"] > 1.3 * step / 0.4
    assert 0.8 * step / 0.4 < half["model_flops_per_second"] < 0.95 * step / 0.4
    assert two["examples_per_second"] == row["examples_per_second"]
    # On one chip with a known peak, a tenth of the peak.
    monkeypatch.setattr(chips, "peak", lambda kind, dtype: 10 * step / 0.4)
    assert Throughput(run).measure(Lap(5, 2.0, 0.5))["peak_share"] == pytest.approx(0.1)


def test_peak_share_is_that_of_all_devices(make_config, monkeypatch):
    monkeypatch.setattr(flops, "train_step", lambda *_, **__: [flops.Product("all", 300.0, 0.0, 0.0)])
    monkeypatch.setattr(chips, "peak", lambda kind, dtype: 100.0)
    mesh = SimpleNamespace(devices=np.array([[jax.devices()[0]] * 4]))
    sizes = ClipConfig()
    run = SimpleNamespace(config=make_config(), clip_config=sizes, method=None, heads=None, mesh=mesh)
    row = Throughput(run).measure(Lap(2, 3.0, 0.0))
    assert row["model_flops_per_second"] == 200.0 and row["peak_share"] == 0.5


def test_clock_times_laps_without_pauses(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(throughput.time, "monotonic", lambda: now[0])
    clock = Clock()
    for seconds in (1.0, 2.0):
        with clock.waiting():
            now[0] += seconds
        now[0] += 10.0
        clock.count_step()
    assert clock.lap() == Lap(2, 23.0, 3.0)
    now[0] += 1.0
    clock.count_step()
    with clock.pause():
        now[0] += 100.0
    now[0] += 4.0
    clock.count_step()
    assert clock.lap() == Lap(1, 4.0, 0.0)  # of the steps after the pause
    assert clock.elapsed() == 128.0


@pytest.mark.parametrize(
    ("stats", "expected"),
    [
        ([{"peak_bytes_in_use": 5}, {"peak_bytes_in_use": 7, "bytes_in_use": 9}], 7),
        ([{"peak_bytes_in_use": 5}, None], None),
        ([{}], None),
    ],
)
def test_device_memory(monkeypatch, stats, expected):
    class Device:
        def __init__(self, stats):
            self.memory_stats = lambda: stats

    monkeypatch.setattr(jax, "local_devices", lambda: [Device(found) for found in stats])
    assert throughput.device_memory() == expected


def test_complaints_name_the_process_if_there_are_several(monkeypatch, capsys):
    throughput.report_problem("no step for 60 s")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    throughput.report_problem("no step for 60 s")
    assert capsys.readouterr() == ("", "no step for 60 s\nprocess 1: no step for 60 s\n")


def test_incomplete_profile_is_written(tmp_path, capsys):
    profiler = Profiler(tmp_path, enabled=True)
    for step in range(1, 12):
        with profiler.step(step):
            result = jax.numpy.ones(3) + step
        profiler.after_step(step, result)
    assert not list(tmp_path.rglob("*.xplane.pb"))
    profiler.close()
    profiler.close()
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1
    assert capsys.readouterr().out.count("profile: ") == 1
    profiler = Profiler(tmp_path / "none", enabled=False)
    for step in range(1, 20):
        profiler.after_step(step, None)
    profiler.close()
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_profiling_does_not_change_a_run(make_config, tmp_path, finished, capsys):
    flags = {"total_steps": 16, "eval_every": 0, "checkpoint_every": 100, "profile": True}
    loop.train(make_config(**flags), tmp_path / "run")
    assert f"profile: steps 10 to 15, in {tmp_path / 'run' / 'profile'}" in capsys.readouterr().out
    assert len(list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))) == 1
    losses = [
        [row["loss"] for row in rows(folder) if "loss" in row][:16]
        for folder in (tmp_path / "run", finished[0])
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 16
