"""The description of a model says what it was trained on, and knows it again."""

import json
import shutil
from pathlib import Path

from tpr_jax.cross.tested import describe_model


def test_names_the_data_of_the_run_that_a_run_began_from(tiny, tmp_path):
    for name, dataset, backbone in (
        ("first", "synth_pedes", "clip-mini"),
        ("second", "icfg_pedes", str(tmp_path / "first" / "model")),
        ("third", "cuhk_pedes", str(tmp_path / "second")),
    ):
        (tmp_path / name / "model").mkdir(parents=True)
        shutil.copy(Path(tiny["clip"]) / "config.json", tmp_path / name / "model")
        config = {"dataset": dataset, "mix": [], "method": {}, "losses": {}, "backbone": backbone}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    assert describe_model(str(tmp_path / "third")).trained_on == (
        *("cuhk_pedes", "icfg_pedes", "synth_pedes"),
    )
    # One that names itself ends, too.
    config["backbone"] = str(tmp_path / "third")
    (tmp_path / "third" / "config.json").write_text(json.dumps(config))
    assert describe_model(str(tmp_path / "third")).trained_on == ("cuhk_pedes",)


def test_describes_what_a_run_was_trained_on(tiny, tmp_path):
    """A run's folder and the model in it are the same model; mixed data sets are named."""
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (run / "model" / name).write_bytes((Path(tiny["clip"]) / name).read_bytes())
    config = {"dataset": "icfg_pedes", "mix": [["folder", "d", 0.5]], "method": {}, "losses": {}}
    (run / "config.json").write_text(json.dumps(config))
    outer, inner = describe_model(str(run)), describe_model(str(run / "model"))
    assert outer.trained_on == inner.trained_on == ("icfg_pedes", "folder")
    assert (outer.name, outer.location) == (str(run), str(run / "model"))
    assert outer.sha256 == inner.sha256 and inner.location == str(run / "model")
    assert describe_model(tiny["clip"]).trained_on == ()
