"""The cross command: its scores are those of the runs, and nothing is scored twice."""

import csv
import json
from pathlib import Path

import pytest

from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.cross import __main__ as cross
from tpr_jax.cross import score as score_lib
from tpr_jax.errors import UserError


@pytest.fixture
def crossed(tmp_path, capsys):
    """Returns `crossed(*words)`, which runs the command into `out`: (exit code, stdout, stderr)."""

    def call(*words):
        argv = ["cross", *map(str, words), "--out", str(tmp_path / "out")]
        try:
            cross.main(argv)
            code = 0
        except SystemExit as ended:
            code = ended.code
        return code, *capsys.readouterr()

    return call


def table(tmp_path) -> dict:
    with open(tmp_path / "out" / "cross.csv") as file:
        rows = list(csv.DictReader(file))
    return {(row["model"], row["tested_on"], row["direction"]): row for row in rows}


def test_scores_of_a_run_and_its_backbone(crossed, finished, tiny, tmp_path, monkeypatch):
    workdir, process = finished
    assert process.returncode == 0, process.stderr
    data = ["--data", f"cuhk_pedes={tiny['data']}"]
    code, stdout, stderr = crossed(workdir, tiny["clip"], *data)
    assert (code, stderr) == (0, "") and "[2 of 2]" in stdout
    results = json.loads((workdir / "results.json").read_text())
    rows = table(tmp_path)
    for direction in ("t2i", "i2t"):
        for name, wanted in ((str(workdir), results["best_on_val"]), (tiny["clip"], results["zero_shot"])):
            row = rows[name, "cuhk_pedes", direction]
            assert row["trained_on"] == ("cuhk_pedes" if name == str(workdir) else "")
            for key, value in wanted["test"][direction].items():
                assert float(row[key]) == pytest.approx(value, abs=1e-3), (name, direction, key)
    written = (tmp_path / "out" / "cross.md").read_text()
    assert written in stdout and f"| CUHK-PEDES | {workdir}" in written
    # Rerun: nothing is loaded; only a damaged cell is scored again.
    with monkeypatch.context() as patch:
        patch.setattr(score_lib, "load", lambda place: pytest.fail("loaded"))
        code, again, _ = crossed(workdir, tiny["clip"], *data)
        assert code == 0 and again.count("already done") == 2
    assert (tmp_path / "out" / "cross.md").read_text() == written
    cells = sorted((tmp_path / "out" / "cells").iterdir())
    assert len(cells) == 2
    cells[0].write_text(cells[0].read_text()[:50])
    code, again, _ = crossed(workdir, tiny["clip"], *data)
    assert code == 0 and again.count("already done") == 1
    assert (tmp_path / "out" / "cross.md").read_text() == written


SCORES = {"R1": 1.0, "R5": 2.0, "R10": 3.0, "mAP": 4.0, "mINP": 5.0}


@pytest.fixture
def counted(monkeypatch):
    """Replaces scoring; returns the list of (model, records) that were scored."""
    scored = []

    def score(model, records):
        scored.append((model, records.name))
        return {"t2i": SCORES, "i2t": SCORES}

    monkeypatch.setattr(score_lib, "load", lambda place: place)
    monkeypatch.setattr(score_lib, "score", score)
    return scored


def test_resumes_after_an_interrupt(crossed, counted, own_clip, tiny, tmp_path, monkeypatch):
    words = [tiny["clip"], "clip-mini", "--data", f"cuhk_pedes={tiny['data']}", "mini_pedes"]
    score, calls = score_lib.score, []
    assert crossed(tiny["clip"], own_clip, *words[2:])[0] == 2  # the same model twice

    def interrupted(model, records):
        calls.append(model)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(model, records)

    with monkeypatch.context() as patch:
        patch.setattr(score_lib, "score", interrupted)
        code, stdout, stderr = crossed(*words)
    assert code == 130 and "[3 of 4] clip-mini on cuhk_pedes: " in stdout
    assert f"resume with: python -m tpr_jax.cross {tiny['clip']} clip-mini --data" in stderr
    assert len(table(tmp_path)) == 4  # two cells, both directions
    del counted[:]
    left = [".cross.md.abcd1234.tmp", "cells/.a-mini_pedes-b.json.abcd1234.tmp"]
    mine = [".notes.abcd1234.tmp", "cells/a.tmp"]
    for name in [*left, *mine]:
        (tmp_path / "out" / name).write_text("x")
    code, stdout, _ = crossed(*words)
    assert [(tmp_path / "out" / name).exists() for name in [*left, *mine]] == [False, False, True, True]
    assert code == 0 and stdout.count("already done") == 2
    assert counted == [("clip-mini", "data:test"), ("clip-mini", "bundled:test")]
    # A changed model is scored again.
    del counted[:]
    (own_clip / "config.json").write_text((own_clip / "config.json").read_text() + "\n")
    code, stdout, _ = crossed(own_clip, "clip-mini", *words[2:])
    assert code == 0 and [model for model, _ in counted] == [str(own_clip)] * 2


def test_scores_again_after_the_annotation_changes(crossed, counted, own_data, tmp_path):
    words = ["clip-mini", "--data", f"cuhk_pedes={own_data}"]
    crossed(*words)
    entries = json.loads((own_data / "reid_raw.json").read_text())
    (own_data / "reid_raw.json").write_text(json.dumps(entries[:-2]))
    code, stdout, _ = crossed(*words)
    assert code == 0 and "already done" not in stdout and len(counted) == 2


def test_scores_again_after_an_image_changes(crossed, counted, own_data, tmp_path):
    words = ["clip-mini", "--data", f"cuhk_pedes={own_data}"]
    crossed(*words)
    assert "already done" in crossed(*words)[1] and len(counted) == 1
    entries = json.loads((own_data / "reid_raw.json").read_text())
    image = own_data / "imgs" / next(e["file_path"] for e in entries if e["split"] == "test")
    image.write_bytes(image.read_bytes() + b"more")
    code, stdout, _ = crossed(*words)
    assert code == 0 and "already done" not in stdout and len(counted) == 2
    # Only the images of the test split count.
    image = own_data / "imgs" / next(e["file_path"] for e in entries if e["split"] == "train")
    image.write_bytes(image.read_bytes() + b"more")
    assert "already done" in crossed(*words)[1] and len(counted) == 2


def test_says_that_a_test_split_is_not_the_official_one(crossed, counted, tiny, tmp_path):
    _, stdout, _ = crossed("clip-mini", "--data", f"cuhk_pedes={tiny['data']}", "mini_pedes")
    note = "Not the official CUHK-PEDES: test has "
    written = (tmp_path / "out" / "cross.md").read_text()
    assert stdout.count("Not the official") == written.count("Not the official") == 1
    assert note in written and "officially 1,000 identities, 3,074 images, 6,156 captions." in written


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "mini_pedes"], "no model is named"),
        (["clip-mini"], "--data is missing"),
        (["clip-mini", "--data", "cuhk=d"], "--data cuhk=d: data set 'cuhk' is unknown: did you mean"),
        (["clip-mini", "--data", "mini_pedes", "mini_pedes"], "mini_pedes is given twice"),
        (["clip-mini", "--data", "cuhk_pedes=nowhere"], "nowhere: no such folder"),
        (["/nothing/here", "--data", "mini_pedes"], "/nothing/here"),
        (["clip-mini", "clip-mini", "--data", "mini_pedes"], "clip-mini is the same model as another"),
        (["RUN", "--data", "mini_pedes"], "is a run that has no model/ yet: let it finish"),
        (["clip-mini", "--dta", "mini_pedes"], "--dta is unknown: did you mean '--data'?"),
    ],
)
def test_rejects_bad_arguments_before_anything_is_scored(crossed, counted, tmp_path, words, message):
    config = {"dataset": "icfg_pedes", "mix": [], "method": {}, "losses": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, _, stderr = crossed(*(str(tmp_path) if word == "RUN" else word for word in words))
    assert code == 2 and message in stderr and stderr.count("\n") == 1, stderr
    assert not counted and not (tmp_path / "out").exists()


def test_help(capsys):
    for argv, code in ((["cross", "--help"], 0), (["cross"], 2)):
        with pytest.raises(SystemExit) as ended:
            explain_and_exit(cross.run, argv)
        assert ended.value.code == code
        assert "python -m tpr_jax.cross MODEL... --data" in capsys.readouterr().out


def test_defaults(monkeypatch, tmp_path):
    models, data, out = cross.parse(["cross", "a", "--data", "rstp_reid", "mini_pedes", "--out", "o", "b"])
    assert models == ["a", "b"] and str(out) == "o"
    assert data["rstp_reid"].endswith("RSTPReid") and (Path(data["mini_pedes"]) / "imgs").is_dir()
    with pytest.raises(UserError, match="give the folder of your data as --data folder=DIR"):
        cross.parse(["cross", "a", "--data", "folder"])
