"""Protocols of papers: best on test, few identities, shuffled captions, P x K batches."""

import json
import re

import pytest

from tpr_jax.train import eval_run, loop


def rows(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("with_val", [True, False])
def test_best_on_test_if_asked_for(make_config, own_data, tmp_path, with_val, capsys):
    """Few people, shuffled captions and P x K batches besides: all that a protocol can ask for at once."""
    entries = json.loads((own_data / "reid_raw.json").read_text())
    kept = [e for e in entries if with_val or e["split"] != "val"]
    (own_data / "reid_raw.json").write_text(json.dumps(kept))
    protocol = {"sampler": "identity", "instances_per_identity": 2, "few_shot": 0.5, "noisy_fraction": 0.5}
    config = make_config(data_dir=own_data, num_epochs=4, eval_every=1, eval_test_each_time=True, **protocol)
    results = loop.train(config, tmp_path / "run")
    # Six people with four captions each: two sets of two, four of which are a batch.
    assert results["data"]["few_shot"]["identities"] == 6 and results["data"]["noisy"]["captions"] == 12
    scored = [row for row in rows(tmp_path / "run") if "test" in row]
    assert [row["epoch"] for row in scored] == [1, 2, 3, 4]
    assert all(("val" in row) == with_val for row in scored)
    assert results["steps"] == scored[-1]["step"] == 4 * scored[0]["step"]
    found = [row["test"]["t2i"]["R1"] for row in scored]
    best = results["best_on_test"]
    assert best["epoch"] == 1 + found.index(max(found)) and best["test"] == scored[best["epoch"] - 1]["test"]
    assert "best of 4 epochs, chosen on the test split itself" in best["note"]
    assert scored[-1]["test"] == results["final"]["test"]
    assert (results["best_on_val"] is not None) == with_val
    if with_val:  # the score that it had on the way
        assert results["best_on_val"]["test"] == scored[results["best_on_val"]["epoch"] - 1]["test"]
    said = capsys.readouterr().out
    assert re.search(rf"test, best epoch on test \( +{best['epoch']}\): +R1 {max(found):.2f} ", said)
    assert "few-shot: 6 of 12 identities of data:train" in said and "noisy: 12 of 24 captions" in said
    # Evaluation alone does not know it, but knows the few people.
    evaluated = eval_run.evaluate_run(config, tmp_path / "run")
    assert evaluated["data"] == results["data"]
