"""The record of what was scanned: options of a later run, invalid values, damaged files."""

import json

import pytest

from tests.footage.indexed import index, make_source, rows
from tests.footage.videos import open_cv
from tpr_jax.errors import UserError
from tpr_jax.search.__main__ import run
from tpr_jax.search.index import footage_manifest
from tpr_jax.search.index.store import open_index

cv2 = open_cv()


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path)


def test_a_later_run_needs_no_flags(source, capsys):
    first = index(source / "gate.avi", "--camera", "north")
    run(["index", str(source / "gate.avi"), "--index", str(first.folder)])
    assert rows(open_index(first.folder)) == rows(first)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--every", "-1"], "--every -1"),
        (["--start", "5", "--end", "2"], "--end 2"),
        (["--clock", "ten"], "--clock ten"),
        (["--detect", "missing.onnx"], "missing.onnx: no such file"),
    ],
)
def test_invalid_flags_are_one_line(source, flags, message):
    with pytest.raises(UserError, match=message):
        index(source / "gate.avi", *flags)


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 99, "sources": {}}'])
def test_a_manifest_that_cannot_be_used_is_one_line(tmp_path, content):
    (tmp_path / footage_manifest.MANIFEST).write_text(content)
    with pytest.raises(UserError, match=r"footage\.json: "):
        footage_manifest.recorded_options(tmp_path, "gate.avi")


def test_sources_are_recorded_beside_each_other(tmp_path):
    for name, every in (("a.avi", 0.5), ("b.avi", 2.0)):
        footage_manifest.record(tmp_path, name, {"options": {"every": every}})
    assert footage_manifest.recorded_options(tmp_path, "b.avi").every == 2.0
    assert footage_manifest.recorded_options(tmp_path, "a.avi").every == 0.5
    assert footage_manifest.recorded_options(tmp_path, "c.avi") is None
    names = json.loads((tmp_path / footage_manifest.MANIFEST).read_text())["sources"]
    assert len(names) == 2
