"""One run from end to end: all files that it writes, and the weights that it must not change."""

import json
import math

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tpr_jax.config.defaults import loss_weights
from tpr_jax.errors import UserError
from tpr_jax.train import checkpoint, eval_run, loop
from tpr_jax.weights.clip import load_clip

pytestmark = pytest.mark.everywhere

MEASURES = ["R1", "R5", "R10", "mAP", "mINP"]
STEPS, PER_EPOCH = 120, 6


def rows(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def read(folder, step: int) -> dict:
    """Reads a checkpoint as it is on disk, without a target structure."""
    manager = checkpoint.open_manager(folder, keep=2)
    wanted = ocp.args.Composite(state=ocp.args.StandardRestore(), notes=ocp.args.JsonRestore())
    return manager.restore(step, args=wanted)


def assert_scores(scores: dict) -> None:
    assert list(scores) == ["t2i", "i2t"]
    for direction in scores.values():
        assert list(direction) == MEASURES
        assert all(0 <= value <= 100 for value in direction.values())
        assert direction["R1"] <= direction["R5"] <= direction["R10"]


def test_terminal_output_has_no_noise(finished):
    workdir, process = finished
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""  # no warning of any library; the bars show only on a terminal
    assert "zero-shot, test: R1 " in process.stdout
    for epoch in (5, 10, 15, 20):
        assert f"epoch {epoch}, val: R1 " in process.stdout
    assert str(workdir) in process.stdout and "report.html" in process.stdout
    assert "next:  python -m tpr_jax.visualize grid" in process.stdout


def test_config_json_is_the_whole_config(finished, make_config):
    workdir, _ = finished
    written = json.loads((workdir / "config.json").read_text())
    expected = make_config()
    assert written == json.loads(expected.to_json())


def test_metrics_jsonl_has_a_row_per_logged_step(finished):
    workdir, _ = finished
    steps = [row for row in rows(workdir) if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    assert [row["epoch"] for row in steps] == [step // PER_EPOCH for step in range(STEPS)]
    for row in steps:
        assert set(row) == {
            *("step", "epoch", "loss", "sdm", "balance", "lr", "grad_norm"),
            *("examples_per_second", "step_seconds", "input_wait", "model_flops_per_second", "seconds"),
            *(
                f"routing/{tower}/{what}"
                for tower in ("visual", "text")
                for what in ("load", "balance", "alpha")
            ),
        }
        assert row["loss"] == pytest.approx(row["sdm"] + row["balance"], rel=1e-6)
        assert row["examples_per_second"] > 0 and 0 <= row["input_wait"] <= 1
        for tower in ("visual", "text"):
            load = row[f"routing/{tower}/load"]
            assert len(load) == 3  # experts
    assert np.mean([row["loss"] for row in steps[-12:]]) < np.mean([row["loss"] for row in steps[:12]]) - 0.3
    # Full precision: nine digits bring a float32 back.
    assert all(float(np.float32(row["loss"])) == row["loss"] for row in steps)
    assert len({row["loss"] for row in steps}) > STEPS / 2


def test_logged_learning_rate_follows_the_schedule(finished):
    workdir, _ = finished
    for row in (row for row in rows(workdir) if "loss" in row):
        epochs = (row["step"] - 1) / PER_EPOCH  # the first step is taken at progress 0
        ramp, cosine = 0.1 + 0.9 * epochs, 0.5 * (1 + math.cos(math.pi * (epochs - 1) / 19))
        factor = ramp if epochs < 1 else cosine
        assert row["lr"] == pytest.approx(3e-3 * factor, rel=1e-4, abs=1e-9)


def test_validation_rows(finished):
    workdir, _ = finished
    scored = [row for row in rows(workdir) if "val" in row]
    assert [(row["step"], row["epoch"]) for row in scored] == [(30, 5), (60, 10), (90, 15), (120, 20)]
    for row in scored:
        assert_scores(row["val"])


def test_results_json(finished, tiny):
    workdir, _ = finished
    results = json.loads((workdir / "results.json").read_text())
    assert list(results) == [
        *("method", "dataset", "backbone", "trainable_params", "total_params", "steps", "seconds"),
        *("zero_shot", "final", "best_on_val", "best_on_test"),
        *("data", "environment", "peak_memory_bytes", "peak_device_memory_bytes"),
    ]
    assert (results["method"], results["dataset"], results["steps"]) == ("dm_adapter", "cuhk_pedes", STEPS)
    # By hand, for each block of width 64 with 3 experts of 8: LN3, prompt, W_in, W_task, blend, down, up.
    block = 2 * 64 + 64 + 2 * 3 * 64 + 1 + 3 * (64 * 8 + 8) + 3 * (8 * 64 + 64)
    assert results["trainable_params"] == 2 * block
    _, params = load_clip(tiny["clip"])
    assert results["total_params"] == 2 * block + sum(leaf.size for leaf in jax.tree.leaves(params))
    assert list(results["zero_shot"]) == ["test"] and list(results["final"]) == ["val", "test"]
    assert list(results["best_on_val"]) == ["epoch", "test"] and results["best_on_test"] is None
    for scores in (results["zero_shot"]["test"], *results["final"].values(), results["best_on_val"]["test"]):
        assert_scores(scores)
    validated = {row["epoch"]: row["val"]["t2i"]["R1"] for row in rows(workdir) if "val" in row}
    best = max(validated.values())
    assert results["best_on_val"]["epoch"] == min(e for e, r1 in validated.items() if r1 == best)
    assert results["final"]["val"] == next(row["val"] for row in rows(workdir) if row.get("epoch") == 20)
    assert results["seconds"] > 0
    facts = results["backbone"]
    assert facts["params"] == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert (facts["image_size"], facts["text_length"], facts["from_scratch"]) == ([32, 16], 24, False)
    assert results["data"]["subset"]  # of CUHK-PEDES, by whose name this tiny set goes
    assert results["environment"]["devices"] == len(jax.devices())
    assert results["environment"]["versions"]["jax"] == jax.__version__
    assert 2e8 < results["peak_memory_bytes"] < 2e10  # JAX and TensorFlow alone take hundreds of MB


def test_tensorboard_and_report(finished):
    workdir, _ = finished
    events = b"".join(path.read_bytes() for path in (workdir / "tensorboard").rglob("events.*"))
    for tag in (b"loss", b"sdm", b"balance", b"examples_per_second", b"val/t2i/R1"):
        assert tag in events
    assert (workdir / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "</html>" in (workdir / "report.html").read_text()


def test_checkpoints_hold_the_trainable_part_only(finished):
    workdir, _ = finished
    latest, best = workdir / "checkpoints" / "latest", workdir / "checkpoints" / "best"
    assert sorted(int(p.name) for p in latest.iterdir() if p.is_dir()) == [110, 120]
    (kept,) = [int(p.name) for p in best.iterdir() if p.is_dir()]
    results = json.loads((workdir / "results.json").read_text())
    assert kept == results["best_on_val"]["epoch"] * PER_EPOCH
    for folder, step in ((latest, 120), (best, kept)):
        found = read(folder, step)
        state = found["state"]
        assert set(state) == {"trainable", "opt", "step", "bad_step"} and set(state["trainable"]) == {"moe"}
        assert int(state["step"]) == step
        numbers = sum(np.size(leaf) for leaf in jax.tree.leaves(state))
        # Weights, two moments, a handful of counters: no room for CLIP.
        assert 3 * results["trainable_params"] <= numbers < 3 * results["trainable_params"] + 20
        assert found["notes"]["zero_shot"] == results["zero_shot"]["test"]


def test_frozen_weights_do_not_change(make_config, tmp_path, tiny):
    """Trains in this process, where the frozen weights can be inspected afterward."""
    config = make_config(total_steps=3)
    seen = {}
    prepare = loop.prepare

    def watched(config):
        run = prepare(config)
        seen.update(frozen=run.frozen, before=jax.tree.map(np.array, run.trainable))
        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "prepare", watched)
        results = loop.train(config, tmp_path / "run")
    assert results["steps"] == 3
    _, params = load_clip(tiny["clip"])
    assert list(seen["frozen"]) == ["params"]
    for ours, theirs in zip(jax.tree.leaves(seen["frozen"]["params"]), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), theirs)
    after = read(tmp_path / "run" / "checkpoints" / "latest", 3)["state"]["trainable"]
    moved = jax.tree.map(lambda a, b: bool((np.asarray(a) != b).any()), after, seen["before"])
    assert all(jax.tree.leaves(moved))


def test_run_without_val_split(make_config, own_data, tmp_path):
    entries = json.loads((own_data / "reid_raw.json").read_text())
    (own_data / "reid_raw.json").write_text(json.dumps([e for e in entries if e["split"] != "val"]))
    results = loop.train(make_config(data_dir=own_data, total_steps=6, eval_every=0), tmp_path / "run")
    assert results["best_on_val"] is None and list(results["final"]) == ["test"]
    assert results["best_on_test"] is None
    assert not any("val" in row or "test" in row for row in rows(tmp_path / "run"))


def test_eval_every_0_evaluates_once_at_the_end(make_config, tmp_path):
    results = loop.train(make_config(total_steps=12, eval_every=0), tmp_path / "run")
    assert [row["step"] for row in rows(tmp_path / "run") if "val" in row] == [12]
    assert results["best_on_val"]["epoch"] == 2 and results["best_on_val"]["test"] == results["final"]["test"]


def test_log_every_always_logs_the_last_step(make_config, tmp_path):
    loop.train(make_config(total_steps=12, log_every=5, eval_every=0), tmp_path / "run")
    assert [row["step"] for row in rows(tmp_path / "run") if "loss" in row] == [5, 10, 12]


def test_rejects_a_method_with_nothing_to_train(make_config, tmp_path):
    config = make_config()
    config.method = {"name": "zero_shot"}
    config.losses.balance = 0.0
    with pytest.raises(UserError, match="method 'zero_shot' has nothing to train: use --mode eval"):
        loop.train(config, tmp_path / "run")
    assert loss_weights(config) == {"sdm": 1.0}
    assert eval_run.evaluate_run(config, tmp_path / "run")["checkpoint"] is None


def test_reports_milestones_beyond_the_last_epoch(make_config, tmp_path, capsys):
    flags = {"num_epochs": 3, "total_steps": 2, "eval_every": 0, "optimizer__schedule": "step"}
    loop.train(make_config(**flags), tmp_path / "default")
    told = "config.optimizer.milestones=(20, 50) all lie beyond config.num_epochs=3: after its warm-up"
    assert told in capsys.readouterr().out
    flags |= {"total_steps": 0, "optimizer__milestones": "(1,2)", "optimizer__gamma": 0.5, "log_every": 6}
    config = make_config(**flags, optimizer__warmup_epochs=0.0)
    loop.train(config, tmp_path / "short")
    assert "optimizer.milestones" not in capsys.readouterr().out
    rates = [row["lr"] for row in rows(tmp_path / "short") if "lr" in row]
    np.testing.assert_allclose(rates, [3e-3, 1.5e-3, 0.75e-3], rtol=1e-6)
    for key, value, was in [
        ("milestones", "(2,)", r"\[1, 2\], is now \[2\]"),
        ("gamma", 0.1, "0.5, is now 0.1"),
        ("power", 0.5, "0.9, is now 0.5"),
    ]:
        changed = make_config(**flags | {f"optimizer__{key}": value}, optimizer__warmup_epochs=0.0)
        with pytest.raises(UserError, match=rf"config.optimizer.{key} was {was}"):
            loop.train(changed, tmp_path / "short")
