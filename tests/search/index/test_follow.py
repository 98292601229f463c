"""An index that follows its source: new files, growing ones, and broken ones."""

import shutil
import signal
import subprocess
import sys

import pytest

from tests import search_galleries, served
from tests.conftest import ROOT, _environment
from tests.footage.videos import mot_lines, open_cv, write_video
from tpr_jax.errors import UserError
from tpr_jax.search.index import store
from tpr_jax.search.index.folder import matching_pattern
from tpr_jax.search.index.follow import Watch, exclusions, follow, look
from tpr_jax.search.index.gallery import NoPhotosError


class Recorder:
    def __init__(self):
        self.calls, self.lines, self.error, self.skipped = [], [], None, []
        self.watch = Watch(self.update, self.lines.append)

    def update(self, growing):
        self.calls.append(growing)
        if self.error:
            raise self.error
        return {"count": 3, "encoded": 1, "skipped": self.skipped}


@pytest.fixture
def recorder():
    return Recorder()


def test_a_file_is_indexed_once_it_has_stopped_growing(recorder):
    step = recorder.watch.step
    assert step({"a": (1, 1)}) and not step({"a": (1, 1)})
    assert not step({"a": (1, 1), "b": (5, 2)})
    assert not step({"a": (1, 1), "b": (9, 3)})
    assert step({"a": (1, 1), "b": (9, 3)}) and not step({"a": (1, 1), "b": (9, 3)})
    assert recorder.calls == [[], []]
    assert recorder.lines == ["3 photos indexed: 1 new"] * 2


def test_others_are_indexed_while_one_grows(recorder):
    step = recorder.watch.step
    step({"a": (1, 1)})
    step({"a": (1, 1), "b": (5, 2), "c": (1, 1)})
    assert step({"a": (1, 1), "b": (6, 3), "c": (1, 1)}) and recorder.calls[-1] == ["b"]
    assert not step({"a": (1, 1), "b": (7, 4), "c": (1, 1)})
    assert step({"a": (1, 1), "b": (7, 4), "c": (1, 1)}) and recorder.calls[-1] == []
    assert step({"a": (1, 1), "b": (7, 4)})  # one was removed


def test_a_broken_file_is_named_once(recorder):
    recorder.skipped = [("b", "is empty")]
    recorder.watch.step({"a": (1, 1)})
    recorder.watch.step({"a": (2, 2)})
    recorder.watch.step({"a": (2, 2)})
    assert recorder.lines.count("skipped: b: is empty") == 1 and len(recorder.calls) == 2


def test_the_index_lists_what_is_not_named(recorder):
    recorder.skipped = [(f"{n:02}", "is empty") for n in range(12)]
    recorder.watch.step({"a": (1, 1)})
    assert "... and 2 more: skipped.jsonl in the index lists all of them" in recorder.lines


def test_errors_end_only_the_first_update(recorder):
    recorder.error = UserError("--model none: no such model")
    with pytest.raises(UserError):
        recorder.watch.step({"a": (1, 1)})
    recorder.error = UserError("--index i: another process is writing (process 7, 3 of 9); wait")
    recorder.watch.step({"a": (2, 2)})
    recorder.watch.step({"a": (2, 2)})
    recorder.error = UserError("--index i: another process is writing (process 7, 5 of 9); wait")
    recorder.watch.step({"a": (2, 2)})
    assert len(recorder.calls) == 3 and len(recorder.lines) == 1
    recorder.error = None
    assert recorder.watch.step({"a": (2, 2)}) and not recorder.watch.step({"a": (2, 2)})
    recorder.error = NoPhotosError("no photos")
    assert not Recorder().watch.step({})  # nothing there yet: nothing is said


def test_looks_at_folders_patterns_and_files(tmp_path):
    for name in ("a.jpg", "sub/b.jpg", ".hidden", ".cache/c.jpg", "index/vectors.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = look(tmp_path, tmp_path / "index")
    assert sorted(found) == [str(tmp_path / "a.jpg"), str(tmp_path / "sub" / "b.jpg")]
    assert set(found.values()) == {(1, (tmp_path / "a.jpg").stat().st_mtime_ns), *found.values()}
    assert list(look(tmp_path / "*.jpg", tmp_path)) == [str(tmp_path / "a.jpg")]
    assert list(look(tmp_path / "a.jpg", tmp_path)) == [str(tmp_path / "a.jpg")]
    assert look(tmp_path / "none", tmp_path) == {}


def test_excludes_exactly_the_growing_files(tmp_path):
    (pattern,) = exclusions(tmp_path, [str(tmp_path / "a[1].mp4")])
    assert matching_pattern("a[1].mp4", [pattern]) and not matching_pattern("sub/a[1].mp4", [pattern])
    assert not matching_pattern("a1.mp4", [pattern])


def test_the_interval_is_checked(tmp_path):
    with pytest.raises(UserError, match="--watch_every 0: must be seconds"):
        follow(tmp_path, tmp_path, 0, lambda growing: {}, print)


def test_the_command_indexes_what_appears(tiny, tmp_path):
    """Starts with an empty folder, takes up photos, names the broken one once, and ends with 0."""
    (tmp_path / "photos").mkdir()
    search_galleries.photos(tmp_path / "made", 4)
    command = [sys.executable, "-m", "tpr_jax.search", "index", tmp_path / "photos", "--index"]
    command += [tmp_path / "index", "--model", tiny["clip"], "--watch", "--watch_every", "0.1"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [str(word) for word in command], cwd=ROOT, env=_environment(), stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            assert "every 0.1 s (Ctrl-C ends it)" in served.read_line(process, 300)
            for count, names in ((1, ["000.png"]), (3, ["001.png", "002.png"]), (4, ["003.png"])):
                (tmp_path / "photos" / "broken.jpg").write_bytes(b"")
                for name in names:
                    shutil.copy(tmp_path / "made" / name, tmp_path / "photos" / f"{name}.part")
                    (tmp_path / "photos" / f"{name}.part").rename(tmp_path / "photos" / name)
                lines = []
                while not (lines and lines[-1].startswith(f"{count} photo")):
                    lines.append(served.read_line(process, 300))
                assert len([one for one in lines if "skipped: broken.jpg" in one]) <= (count == 1)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=served.PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, output.splitlines()[-1]) == (0, "ended"), errors
    assert len(store.open_index(tmp_path / "index").vectors) == 4


def test_videos_are_searched_for_people(tmp_path, monkeypatch):
    open_cv()
    from tpr_jax.search import __main__ as command
    from tpr_jax.search.index import follow as follow_lib

    (tmp_path / "cams").mkdir()
    (tmp_path / "boxes.txt").write_text(mot_lines(40))
    looks = iter([lambda: write_video(tmp_path / "cams" / "gate.avi"), lambda: None])

    def sleep(seconds):
        if (act := next(looks, None)) is None:
            raise KeyboardInterrupt
        act()

    monkeypatch.setattr(follow_lib.time, "sleep", sleep)
    words = ["index", str(tmp_path / "cams"), "--index", str(tmp_path / "i"), "--watch"]
    command.run([*words, "--detect", str(tmp_path / "boxes.txt")])
    assert len(store.open_index(tmp_path / "i").vectors) == 2
