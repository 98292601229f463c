"""A run whose training is over is scored again, and so is its model before training."""

import json
import shutil

import numpy as np
import pytest

from tests.conftest import forced_devices
from tests.train.test_loop import PER_EPOCH, STEPS, assert_scores
from tpr_jax.errors import UserError
from tpr_jax.train import eval_run, loop, writer
from tpr_jax.train.eval_run import evaluate_run

pytestmark = pytest.mark.everywhere


def test_eval_mode_scores_the_best_state(finished, make_config, tmp_path, capsys):
    """`--mode eval` writes eval.json, with the scores that the run itself gave this state."""
    workdir, _ = finished
    copy = shutil.copytree(workdir, tmp_path / "copy")
    config = make_config()
    scored = evaluate_run(config, copy)
    results = json.loads((workdir / "results.json").read_text())
    assert scored["checkpoint"] == "best" and scored["step"] == results["best_on_val"]["epoch"] * PER_EPOCH
    assert scored["test"] == results["best_on_val"]["test"]
    assert scored["environment"] == results["environment"]
    assert all(scored[key] == results[key] for key in ("trainable_params", "total_params"))
    assert scored["peak_memory_bytes"] > 2e8
    assert json.loads((copy / "eval.json").read_text()) == scored
    assert "eval.json" in capsys.readouterr().out
    # Without the best the newest is taken, and a broken best is said to be broken.
    for path in (copy / "checkpoints" / "best").rglob("d/*"):
        path.write_bytes(b"")
    scored = evaluate_run(config, copy)
    assert (scored["checkpoint"], scored["step"]) == ("latest", STEPS)
    assert scored["test"] == results["final"]["test"] and scored["val"] == results["final"]["val"]
    assert "using the newest state instead" in capsys.readouterr().out
    scored = evaluate_run(config, copy, initial=True)
    assert (scored["checkpoint"], scored["test"]) == (None, results["zero_shot"]["test"])
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(UserError, match=rf"{copy}: has no checkpoints of a run; check --workdir, or"):
        evaluate_run(config, copy)


def test_eval_mode_of_a_mistyped_workdir_makes_nothing(start, tmp_path):
    process = start(tmp_path / "typo", "--mode=eval")
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 2 and stderr.count("\n") == 1
    assert f"{tmp_path / 'typo'}: has no checkpoints of a run" in stderr
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize(
    ("flags", "devices"),
    [((), 3), (("--config.mesh.data=1", "--config.mesh.model=-1"), 2)],
    ids=["3x1", "1x2"],
)
def test_evaluates_on_another_number_of_devices(finished, start, tmp_path, flags, devices):
    """Batches of training and evaluation need not be multiples of the devices; the scores stay the same."""
    workdir, _ = finished
    copy = shutil.copytree(workdir, tmp_path / "copy")
    process = start(copy, "--mode=eval", *flags, env=forced_devices(devices))
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    scored = json.loads((copy / "eval.json").read_text())
    results = json.loads((workdir / "results.json").read_text())
    assert scored["checkpoint"] == "best"
    # Rows of another batch may round otherwise in the last bit, and change the places of equals.
    for direction in ("t2i", "i2t"):
        for measure, value in results["best_on_val"]["test"][direction].items():
            np.testing.assert_allclose(scored["test"][direction][measure], value, atol=1e-3)


def test_keeps_an_eval_json_of_something_else(make_config, tmp_path):
    (tmp_path / "eval.json").write_text('{"accuracy": 0.9}')
    with pytest.raises(UserError, match=f"^{tmp_path / 'eval.json'}: is not of a run"):
        evaluate_run(make_config(), tmp_path, initial=True)
    assert (tmp_path / "eval.json").read_text() == '{"accuracy": 0.9}'


def test_evaluation_takes_any_training_batch_size(make_config, tmp_path):
    """The batch is larger than the training split, with three microbatches that do not divide it."""
    config = make_config(batch_size=500, accumulate=3, eval_batch_size=5)
    scored = evaluate_run(config, tmp_path / "scored", initial=True)
    assert scored["checkpoint"] is None
    assert_scores(scored["test"])
    # Neither a second evaluation nor a run is kept out by the eval.json of this one.
    path = tmp_path / "scored" / "eval.json"
    assert eval_run.is_result(path)
    writer.check_workdir(path.parent, {}, ())
    other = evaluate_run(make_config(), tmp_path / "other", initial=True)
    for direction in ("t2i", "i2t"):
        np.testing.assert_allclose(
            list(scored["test"][direction].values()), list(other["test"][direction].values()), atol=1e-3
        )
    with pytest.raises(UserError, match=r"config\.batch_size=500 must be a multiple of the 1 devices"):
        loop.train(config, tmp_path / "trained")
