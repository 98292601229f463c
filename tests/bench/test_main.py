"""The bench command: its sections, resuming, and errors."""

import json

import pytest

from tpr_jax.bench import __main__ as bench
from tpr_jax.errors import UserError


def test_keeps_what_was_measured(measured, tmp_path, capsys):
    command = ["bench", "--only", "ranking", "--turns", "2", "--workdir", str(tmp_path)]
    bench.run(command)
    assert len(measured) == 3 and "CUHK-PEDES: 6,156 texts, 3,074 images" in capsys.readouterr().out
    report = json.loads((tmp_path / "bench.json").read_text())
    del report["parts"]["ranking"]["RSTPReid"]
    (tmp_path / "bench.json").write_text(json.dumps(report))
    bench.run(command)
    assert len(measured) == 4 and measured[-1][0]["of"] == "RSTPReid"
    bench.run([*command, "--tables_only"])
    assert len(measured) == 4


def test_torch_measures_the_encoders_again(measured, tmp_path):
    command = ["bench", "--only", "encode", "--turns", "1", "--workdir", str(tmp_path)]
    bench.run(command)
    bench.run([*command, "--torch"])
    bench.run([*command, "--torch"])
    assert [len(subjects) for subjects in measured] == [6] * 4 + [10] * 4


@pytest.mark.parametrize("accelerator", [False, True])
def test_torch_adds_the_same_step_and_encoder_in_pytorch(accelerator):
    kinds = {"train_step": "torch_train_step", "encoder": "torch_encoder"}
    for section in ("encode", "train", "mini"):
        for subjects in bench.groups(section, True, accelerator).values():
            models = [subject for subject in subjects if subject["kind"] != "product"]
            ours = [subject for subject in models if subject["kind"] in kinds]
            assert ours
            assert [s | {"kind": kinds[s["kind"]]} for s in ours] == [s for s in models if s not in ours]
        for subjects in bench.groups(section, False, accelerator).values():
            assert not any(subject["kind"] in kinds.values() for subject in subjects)


@pytest.mark.parametrize(("accelerator", "photos"), [(False, 128), (True, 4096)])
def test_torch_adds_a_loop_over_the_same_photos(accelerator, photos):
    for torch, kinds in ((True, ["index", "torch_index"]), (False, ["index"])):
        found = bench.groups("search", torch, accelerator)["photos"]
        expected = [(dtype, kind) for dtype in ("float32", "bfloat16") for kind in kinds]
        assert [(row["dtype"], row["kind"]) for row in found] == expected
        assert {(row["backbone"], row["photos"]) for row in found} == {("vit_b_16", photos)}


@pytest.mark.parametrize(("accelerator", "dtype"), [(False, "float32"), (True, "bfloat16")])
def test_backbones_are_named_and_timed_alike(accelerator, dtype):
    found = bench.groups("backbones", True, accelerator)
    assert tuple(found) == bench.BACKBONES
    for name, (images, texts, step) in found.items():
        assert (images["tower"], texts["tower"], step["config"]) == ("vision", "text", "dm_adapter")
        assert {(row["backbone"], row["dtype"]) for row in (images, texts, step)} == {(name, dtype)}


@pytest.mark.parametrize("method", bench.METHODS)
def test_each_group_has_the_matmuls_of_its_dtype(method):
    for settings, ways in [
        ((False, False), ["xla", "options", "numpy"]),
        ((True, False), ["xla", "options", "numpy", "torch"]),
        ((False, True), ["xla"]),
        ((True, True), ["xla", "torch"]),
    ]:
        for section in ("encode", "train", "mini"):
            for subjects in bench.groups(section, *settings).values():
                assert [s["by"] for s in subjects if s["kind"] == "product"] == ways
                assert len({s["dtype"] for s in subjects}) == 1
    found = [s for group in bench.groups("train").values() for s in group if s.get("config") == method]
    assert {(s["dtype"], s["batch"]) for s in found} == {
        (d, b) for d in ("float32", "bfloat16") for b in (8, 16)
    }


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--only", "encod"], "--only encod is unknown: choose from encode"),
        (["--turns", "0"], "--turns 0: must be at least 1"),
        (["--turn"], "expected one argument"),
    ],
)
def test_rejects_bad_flags(arguments, line, tmp_path):
    with pytest.raises(UserError, match=line):
        bench.run(["bench", *arguments, "--workdir", str(tmp_path)])


def test_keeps_a_damaged_report_or_one_from_another_machine(measured, tmp_path):
    path = tmp_path / "bench.json"
    for text, line in (("{", "cannot be read"), ('{"machine": {}, "parts": {}}', "is from another machine")):
        path.write_text(text)
        with pytest.raises(UserError, match=line):
            bench.run(["bench", "--only", "ranking", "--workdir", str(tmp_path)])
        assert path.read_text() == text


def test_writes_the_tables_into_the_page(measured, tmp_path, monkeypatch, pytestconfig):
    page = (pytestconfig.rootpath / bench.PAGE).read_text()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / bench.PAGE).write_text(page)
    bench.run(["bench", "--only", "ranking", "--turns", "1", "--write"])
    written = (tmp_path / bench.PAGE).read_text()
    assert "RSTPReid: 2,000 texts" in written and written.endswith(page.partition("<!-- /bench -->")[2])
