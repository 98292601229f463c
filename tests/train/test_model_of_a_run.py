"""The model that a run leaves behind is the one that its results speak of."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

import tpr_jax
from tpr_jax.data.records import caption_pairs, load_records
from tpr_jax.metrics import retrieval
from tpr_jax.train import results


def test_the_model_of_a_run_scores_what_its_results_say(finished, tiny):
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
    # Beside the numbers of the parts, the file holds their names.
    size = (workdir / "model" / "adapter.safetensors").stat().st_size
    assert 0 < size - 4 * told["trainable_params"] < 5_000
    card = (workdir / "model" / "README.md").read_text()
    assert f"{told['best_on_val']['test']['t2i']['mAP']:.2f}" in card and tiny["clip"] in card
    assert model.tokenizer.context_length == 24


@pytest.mark.parametrize("found, wanted", [((3, "best", {"best_epoch": 2}, []), "best"), (None, "last")])
def test_the_state_kept_is_the_best_on_val_or_else_the_last(monkeypatch, found, wanted):
    config = SimpleNamespace(method=SimpleNamespace(name="x"), dataset="y")
    parts = {"frozen": {}, "trainable": {"a": np.ones(2)}, "encoders": None, "data": {}, "skipped": None}
    monkeypatch.setattr(results.checkpoint, "restore_newest", lambda manager, like: found)
    monkeypatch.setattr(results, "score_split", lambda parts, config, encoders, state, split: (state, None))
    notes = {"zero_shot": "before"}
    out, _, kept = results.final_results(
        config, parts, "last", None, notes, lambda state: state, 5, lambda: 1.0, []
    )
    assert kept == wanted
    # The numbers beside are of the same state.
    assert (out["best_on_val"] or {"test": out["final"]["test"]})["test"] == wanted
