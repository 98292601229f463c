"""A run resumes only with the backbone and the data that it began with."""

import json
import shutil

import pytest

from tpr_jax.errors import UserError
from tpr_jax.train import loop
from tpr_jax.train.eval_run import evaluate_run
from tpr_jax.train.provenance import changed_splits, check_backbone, check_data

FACTS = {
    "name": "a-clip",
    "revision": "1" * 40,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.2, 0.2, 0.2],
    "act": "quick_gelu",
    "heads": [12, 8],
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_mean", [0.5, 0.5, 0.4]),
        ("image_std", [0.2, 0.2, 0.3]),
        ("act", "gelu"),
        ("heads", [12, 16]),
    ],
)
def test_another_backbone_is_rejected_by_what_its_weights_do_not_show(key, value, tmp_path, capsys):
    check_backbone(FACTS, FACTS, tmp_path)
    check_backbone(None, FACTS, tmp_path)
    with pytest.raises(UserError) as error:
        check_backbone(FACTS | {key: value}, FACTS, tmp_path)
    assert str(error.value) == (
        f"--workdir {tmp_path}: was trained with {key}={value} of the backbone, but a-clip now has "
        f"{FACTS[key]}: restore its files, or choose another --workdir"
    )
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ("1" * 40, "2" * 40, f"at {'1' * 40}, now it is {'2' * 40}"),
        ("1" * 40, None, f"at {'1' * 40}, now it is a-clip"),
        (None, "2" * 40, f"at another place, now it is {'2' * 40}"),
    ],
)
def test_another_revision_of_the_backbone_is_told(before, now, told, tmp_path, capsys):
    check_backbone(FACTS | {"revision": before}, FACTS | {"revision": now}, tmp_path)
    line = f"note: {tmp_path} was trained on a-clip {told}; config.backbone=NAME@COMMIT pins one in a new run"
    assert capsys.readouterr().err == line + "\n"


@pytest.mark.parametrize(
    ("now", "changed"),
    [
        ({"train": "a", "test": "b"}, ""),
        ({"train": "c", "test": "b"}, "train"),
        ({"train": "a"}, "test"),
        ({"train": "a", "test": "c", "val": "d"}, "test and val"),
    ],
)
def test_names_the_splits_that_changed(now, changed, tmp_path):
    before = {"train": "a", "test": "b"}
    assert changed_splits(before, now) == changed
    assert changed_splits(None, now) == changed_splits({}, now) == ""
    if not changed:
        check_data(before, now, tmp_path)
        return
    with pytest.raises(UserError) as error:
        check_data(before, now, tmp_path)
    assert str(error.value) == (
        f"--workdir {tmp_path}: was trained on other data: {changed} had other people or captions; give the "
        "same data again, or choose another --workdir"
    )


@pytest.mark.everywhere
def test_resumes_on_moved_data_but_not_on_other_data(make_config, own_data, tmp_path, capsys):
    settings = {"eval_every": 0, "num_epochs": 1}
    loop.train(make_config(data_dir=own_data, **settings, total_steps=2), tmp_path / "run")
    moved = shutil.copytree(own_data, tmp_path / "moved")
    loop.train(make_config(data_dir=moved, **settings, total_steps=3), tmp_path / "run")
    entries = json.loads((moved / "reid_raw.json").read_text())
    row = next(i for i, entry in enumerate(entries) if entry["split"] == "test")
    entries[row]["captions"][0] += " and a hat"
    (moved / "reid_raw.json").write_text(json.dumps(entries))
    files = [tmp_path / "run" / name for name in ("results.json", "config.json")]
    before = [file.read_text() for file in files]
    assert json.loads(before[1])["data_dir"] == str(moved)
    for steps in (3, 4):  # also a run that is complete
        with pytest.raises(
            UserError, match="run: was trained on other data: test had other people or captions"
        ):
            loop.train(make_config(data_dir=moved, **settings, total_steps=steps), tmp_path / "run")
        assert [file.read_text() for file in files] == before
    capsys.readouterr()
    evaluate_run(make_config(data_dir=moved, **settings), tmp_path / "run")
    assert "run was trained on other data: test had other" in capsys.readouterr().err
