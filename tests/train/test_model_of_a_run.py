"""The model that a run saves is the one that its results.json describes."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import tpr_jax
from tpr_jax.data.records import caption_pairs, load_records
from tpr_jax.metrics import retrieval
from tpr_jax.train import results
from tpr_jax.train.checkpoint import Restored
from tpr_jax.train.progress import Progress
from tpr_jax.train.state import TrainState

BEST = TrainState("best", (), np.int32(3), np.int32(-1))


def test_saved_model_scores_as_results_json_says(finished, tiny):
    workdir, process = finished
    assert process.returncode == 0, process.stderr
    assert f"tpr_jax.from_pretrained('{workdir}/model')" in process.stdout
    model = tpr_jax.from_pretrained(workdir / "model")
    records = load_records(tiny["data"], "test")
    _, captions, query_pids = caption_pairs(records)
    found = retrieval.retrieval_metrics(
        model.encode_texts(captions), model.encode_images(records.image_paths), query_pids, records.pids
    )
    told = json.loads((workdir / "results.json").read_text())
    for direction, wanted in told["best_on_val"]["test"].items():
        assert found[direction] == pytest.approx(wanted, abs=1e-3), direction
    assert model.num_params()["trainable"] == told["trainable_params"]
    # Besides the trained numbers, the file holds only their names.
    size = (workdir / "model" / "adapter.safetensors").stat().st_size
    assert 0 < size - 4 * told["trainable_params"] < 5_000
    card = (workdir / "model" / "README.md").read_text()
    assert f"{told['best_on_val']['test']['t2i']['mAP']:.2f}" in card and tiny["clip"] in card
    assert model.tokenizer.context_length == 24


@pytest.mark.parametrize(
    ("found", "wanted"),
    [(Restored(3, BEST.as_dict(), {"best_epoch": 2}, []), "best"), (None, "last")],
)
def test_final_model_is_the_best_on_val_or_else_the_last(found, wanted):
    run = SimpleNamespace(
        config=SimpleNamespace(
            method=SimpleNamespace(name="x"),
            dataset="y",
            optimizer=SimpleNamespace(ema_decay=0.9),
            distill=SimpleNamespace(teacher=""),
        ),
        num_params=lambda: {"trainable_params": 2, "total_params": 2},
        variables=lambda trainable: trainable,
        data={},
        skipped=None,
        mesh=SimpleNamespace(devices=np.array(jax.devices()[:1])),
    )
    evaluator = SimpleNamespace(run=run, score_split=lambda variables, split: (variables, None))
    checkpointer = SimpleNamespace(restore_best=lambda state: found)
    last = BEST._replace(trainable="last", step=np.int32(5))
    progress = Progress(zero_shot={"R1": 1.0})
    out, _, kept = results.final_results(evaluator, last, checkpointer, progress, [], lambda: 1.0)
    assert kept == wanted and out["steps"] == 5 and out["zero_shot"] == {"test": {"R1": 1.0}}
    assert out["ema_decay"] == 0.9 and "teacher" not in out
    # The scores next to it are of the same state.
    assert (out["best_on_val"] or {"test": out["final"]["test"]})["test"] == wanted
