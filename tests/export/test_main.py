"""The export's command line and its errors, in one line."""

import json
import sys

import pytest

from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.data import prefetch
from tpr_jax.export.__main__ import parse, run


@pytest.fixture(autouse=True)
def platforms(monkeypatch):
    """Restores the platforms, which the command sets for its process."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


def said(capsys, *words) -> str:
    with pytest.raises(SystemExit) as ended:
        explain_and_exit(run, ["export", *map(str, words)])
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1, line
    return line


def test_defaults_and_lists():
    args = parse(["export", "--model", "m", "--out", "o"])
    assert (args.format, args.platforms, args.dtype) == (("jax",), ("cpu", "cuda", "tpu"), "float32")
    words = ["--format", "onnx", "--format", "jax", "--format", "onnx", "--platforms", "tpu, cpu"]
    args = parse(["export", "--model", "m", "--out", "o", *words, "--image_size", "32", "16"])
    assert (args.format, args.platforms, args.image_size) == (("onnx", "jax"), ("tpu", "cpu"), [32, 16])


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("--model m", "--out"),
        ("--out o", "--model"),
        ("--model m --out o --format tflite", "'tflite'"),
        ("--model m --out o --platforms cpu,gpu", "'gpu' is unknown: choose from: cpu, cuda, tpu"),
        ("--model m --out o --platforms ,", "'' is unknown"),
        ("--model m --out o --dtype int8", "'int8'"),
        ("--model m --out o --image_size 0 4", "--image_size 0 4: must be above 0"),
        ("--model m --out o --color red", "--color"),
    ],
)
def test_rejects_unusable_arguments(capsys, words, wanted):
    assert wanted in said(capsys, *words.split())


def test_rejects_a_folder_with_other_files(capsys, tmp_path, tiny):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    words = ("--model", tiny["clip"], "--out")
    assert "holds something other than an export; choose another folder" in said(capsys, *words, mine)
    (mine / "export.json").write_text(json.dumps({"made_by": "tpr_jax.export", "bytes": {}}))
    assert "holds letter.txt beside an export" in said(capsys, *words, mine)
    assert "is not a directory" in said(capsys, *words, mine / "letter.txt")
    assert (mine / "letter.txt").read_text() == "dear"
    below = said(capsys, *words, mine / "letter.txt" / "out")
    assert str(mine / "letter.txt" / "out") in below


def test_reports_a_model_that_cannot_be_read(capsys, tmp_path):
    assert "nowhere" in said(capsys, "--model", tmp_path / "nowhere", "--out", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert "empty" in said(capsys, "--model", tmp_path / "empty", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "package", "remedy"),
    [
        ("saved_model", "tensorflow", "pip install tensorflow-cpu"),
        ("onnx", "jax2onnx", "pip install -r requirements-onnx.txt"),
    ],
)
def test_reports_a_missing_package(capsys, tmp_path, tiny, monkeypatch, kind, package, remedy):
    monkeypatch.setitem(sys.modules, package, None)
    # Other tests may have left TensorFlow in its cache.
    monkeypatch.setattr(prefetch, "tensorflow", prefetch.tensorflow.__wrapped__)
    line = said(capsys, "--model", tiny["clip"], "--out", tmp_path / "out", "--format", kind)
    assert f"--format {kind}" in line and remedy in line
    assert not (tmp_path / "out").exists()


def test_onnx_is_float32(capsys, tmp_path, tiny, monkeypatch):
    for package in ("jax2onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, sys)
    words = ("--model", tiny["clip"], "--out", tmp_path / "out", "--format", "onnx", "--dtype", "bfloat16")
    assert "--dtype bfloat16: --format onnx is float32 only" in said(capsys, *words)
    assert not list(tmp_path.iterdir())
