"""The command: output and exit codes; it resumes after a signal; two processes share the work."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import tpr_jax
from tests import search_galleries
from tests.conftest import ROOT, _environment
from tests.ports import free_port
from tpr_jax.search.__main__ import main
from tpr_jax.search.index import store
from tpr_jax.search.index.build import build
from tpr_jax.search.query.search import open_searcher, search


@pytest.fixture
def made(tiny, tmp_path, capsys):
    """Returns a folder with an index of twelve photos that the command made."""
    search_galleries.photos(tmp_path / "photos")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"")
    assert (
        main(["index", str(tmp_path / "photos"), "--index", str(tmp_path / "i"), "--model", tiny["clip"]])
        == 0
    )
    output = capsys.readouterr().out
    assert "13 of 13 photos to encode" in output and "skipped: broken.jpg: the image is empty" in output
    assert "12 photos indexed: 12 encoded, 0 unchanged, 0 gone, 1 skipped" in output
    return tmp_path


@pytest.fixture(scope="module")
def folders(tiny, tmp_path_factory):
    """Returns folders by name: an index `i`, its `photos`, and damaged copies. Read-only."""
    folder = tmp_path_factory.mktemp("cli")
    search_galleries.photos(folder / "photos")
    build(folder / "photos", folder / "i", tiny["clip"])
    for name in ("damaged", "halved"):
        shutil.copytree(folder / "i", folder / name)
    (folder / "damaged" / "index.json").write_text("{")
    vectors = next((folder / "halved").glob("vectors-*.npy"))
    vectors.write_bytes(vectors.read_bytes()[: vectors.stat().st_size // 2])
    return {name: folder / name for name in ("i", "photos", "damaged", "halved")}


def start(*words, code: str = ""):
    """Starts the command, or a program that calls it."""
    command = [sys.executable, *(["-c", code] if code else ["-m", "tpr_jax.search"]), *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=_environment(), stdout=pipe, stderr=pipe, text=True)


def test_query_prints_lines_or_json(made, capsys):
    assert main(["query", "a red coat", "--index", str(made / "i"), "--top_k", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("   1  ") and lines[1].startswith("   2  ") and len(lines) == 3
    picture = str(made / "photos" / "003.png")
    words = ["query", "--image", picture, "--index", str(made / "i"), "--json", "--group"]
    assert main([*words, "--where", "path >= '003'"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["results"][0]["path"] == "003.png" and answer["matching"] == 9
    assert answer["query"]["group"] == 0.95
    assert set(answer["results"][0]) >= {"rank", "score", "box", "columns"}


def test_several_descriptions(made, capsys):
    texts, index = ["a red coat", "blue trousers"], ["--index", str(made / "i"), "--json"]
    assert main(["query", *texts, "--not", "a hat", *index]) == 0
    both = json.loads(capsys.readouterr().out)
    assert both["query"]["text"] == texts and both["query"]["without"] == ["a hat"]
    assert main(["query", texts[0], *index]) == 0
    one = json.loads(capsys.readouterr().out)
    assert one["query"]["text"] == texts[0] and one["query"]["without"] == []
    assert [photo["score"] for photo in one["results"]] != [photo["score"] for photo in both["results"]]


def test_marks(made, capsys):
    """A row or a path, also of a server."""
    index = ["--index", str(made / "i"), "--json"]
    assert main(["query", "a red coat", "--right", "3", "--right", "005.png", "--wrong", "2", *index]) == 0
    marked = json.loads(capsys.readouterr().out)
    assert marked["query"]["right"] == [3, "005.png"] and marked["query"]["wrong"] == [2]
    wanted = search(open_searcher(made / "i"), "a red coat", right=[3, 5], wrong=[2])
    assert marked["results"] == wanted["results"]


def test_exclude(folders, tiny, tmp_path, capsys):
    words = ["index", str(folders["photos"]), "--index", str(tmp_path / "i"), "--model", str(tiny["clip"])]
    assert main([*words, "--exclude", "00[0-3].png", "--exclude", "011.*"]) == 0
    output = capsys.readouterr().out
    assert "left out: 5 folders and files: 00[0-3].png (4), 011.* (1)" in output
    assert "7 photos indexed" in output


def test_add_and_replace(folders, tiny, tmp_path, capsys):
    search_galleries.photos(tmp_path / "other", 2, seed=5)
    index = ["--index", str(tmp_path / "i"), "--model", str(tiny["clip"])]
    assert main(["index", str(folders["photos"]), *index]) == 0
    assert main(["index", str(tmp_path / "other"), *index]) == 2
    assert "--add indexes" in capsys.readouterr().err
    assert main(["index", str(tmp_path / "other"), "--add", *index]) == 0
    assert "14 photos indexed: 2 encoded, 12 unchanged, 0 gone" in capsys.readouterr().out
    assert main(["index", str(tmp_path / "other"), "--replace", *index]) == 0
    assert "2 photos indexed: 0 encoded, 2 unchanged, 12 gone" in capsys.readouterr().out
    assert main(["index", str(tmp_path / "other"), "--add", "--replace", *index]) == 2
    assert "not allowed with" in capsys.readouterr().err


def test_export(made, capsys):
    assert main(["export", "--index", str(made / "i"), "--out", str(made / "x.parquet")]) == 0
    assert "12 rows written" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: index|query|serve|export"),
        (["find"], "'find' is unknown: "),
        (["qurey", "x"], "'qurey' is unknown: did you mean 'query'?; see python -m tpr_jax.search --help"),
        (["query", "x", "--topk", "3"], "--topk is unknown: did you mean '--top_k'?; see python -m"),
        (["serve", "--prot=3"], "--prot is unknown: did you mean '--port'?"),
        (["query", "a"], "--index"),
        (
            ["query", "a", "red", "coat", "--index", "{i}"],
            'put the description in quotation marks: "a red coat"',
        ),
        (["query", "--index", "{i}"], "the query is missing"),
        (
            ["query", "a", "--weight", "0.2", "--index", "{i}"],
            "--weight 0.2: weighs a description against a photo",
        ),
        (["query", "--image", "{photos}/000.png", "--weight", "1", "--index", "{i}"], "--weight 1.0: weighs"),
        (
            ["query", "a", "--right", "1", "--wrong", "001.png", "--index", "{i}"],
            "--right 1: 001.png is also marked wrong",
        ),
        (["query", "a", "--yes", "a man", "--no", "a man", "--index", "{i}"], "--yes 'a man': is also"),
        (["query", "a", "--index", ""], "argument --index: the value '' is empty"),
        (["index", "{photos}", "--index", " "], "argument --index: the value ' ' is empty"),
        (["index", "", "--index", "{i}"], "argument PHOTOS: the value '' is empty"),
        (["index", "{photos}", "--index", "{i}", "--process_id", "3"], "--process_id 3: a run of several"),
        (["query", "a", "--index", "nowhere"], "nowhere: has no index yet"),
        (["query", "a", "--index", "{i}", "--top_k", "many"], "--top_k"),
        (["query", "a", "--index", "{i}", "--model", "clip-mini"], "--model clip-mini: SHA-256"),
        (["query", "a", "--index", "{i}", "--where", "color=3"], "column 'color' is unknown"),
        (["query", "a", "--index", "{i}", "--where", "x=" + "9" * 310], "a number is at most 1.79e308"),
        (["query", "a", "--index", "{i}", "--where", "x=" + "9" * 4300], "a number is at most 1.79e308"),
        (["query", "a", "--index", "{i}", "--where", "path = '\udce9'"], "bytes that are not UTF-8"),
        (["index", "nowhere", "--index", "{i}"], "nowhere: no such folder"),
        (["index", "{i}", "--index", "{i}"], "has no photos"),
        (["index", "{photos}", "--index", "{photos}/000.png"], "000.png"),
        (["index", "{photos}", "--index", "{i}", "--batch_size", "0"], "--batch_size 0"),
        (["index", "{photos}", "--index", "{i}", "--image_size", "0", "3"], "--image_size 0 3"),
        (["index", "{photos}", "--index", "{i}2", "--model", "no/such/model/here"], "no/such/model/here"),
        (["index", "{photos}", "--index", "{i}", "--num_processes", "2"], "needs --coordinator HOST:PORT"),
        (["serve"], "--index"),
        (["serve", "--index", "nowhere", "--port", "0"], "nowhere: has no index yet"),
        (["serve", "--index", "{i}", "--port", "70000"], "--port 70000"),
        (["serve", "--index", "{i}", "--port", "65536"], "--port 65536"),
        (["serve", "--index", "{i}", "--port=-1"], "--port -1: must be from 0"),
        (["serve", "--index", "{i}", "--port", "http"], "--port: invalid int value: 'http'"),
        (["serve", "--index", "{i}", "--port", "8000.5"], "--port: invalid int value"),
        (["serve", "--index", "{damaged}", "--port", "0"], "damaged"),
        (["serve", "--index", "{halved}", "--port", "0"], "damaged"),
        (["serve", "--index", "{photos}/000.png", "--port", "0"], "is a file"),
        (["serve", "--index", "{i}", "--port", "0", "--rate", "inf"], "--rate inf"),
        (["serve", "--index", "{i}", "--port", "0", "--rate", "nan"], "--rate nan"),
        (["serve", "--index", "{i}", "--port", "0", "--max_connections", "-1"], "--max_connections -1"),
        (["serve", "--index", "{i}", "--port", "0", "--host", "192.0.2.7"], "--host 192.0.2.7"),
        (["serve", "--index", "{i}", "--port", "0", "--host", "no host"], "--host no host"),
        (["serve", "--index", "{i}", "--port", "0", "--rate", "-1"], "--rate -1"),
        (["serve", "--index", "{i}", "--port", "0", "--max_upload", "0"], "--max_upload 0"),
        (["serve", "--index", "{i}", "--port", "0", "--engine", "fast"], "--engine fast"),
        (["export", "--index", "{i}", "--out", "{photos}/000.png"], "exists already"),
    ],
)
def test_user_errors_are_one_line(folders, words, message, capsys):
    assert main([word.format(**folders) for word in words]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and message in line and line.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_resumes_after_a_signal(tiny, tmp_path, how):
    search_galleries.photos(tmp_path / "photos", 6000)
    words = ["index", tmp_path / "photos", "--index", tmp_path / "i", "--model", tiny["clip"]]
    process = start(*words, "--batch_size", 1)
    assert "6,000 of 6,000 photos to encode" in process.stdout.readline()
    time.sleep(3)  # of about 30 seconds
    process.send_signal(how)
    _, errors = process.communicate(timeout=300)
    expected = (130, True) if how == signal.SIGTERM else (-how, False)
    assert (process.returncode, "rerun the same command to resume" in errors) == expected, errors
    again = start(*words)
    output, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert "6,000 photos indexed" in output
    assert not (tmp_path / "i" / "parts").exists()


@pytest.mark.slow
def test_two_processes_share_the_work(tiny, tmp_path):
    names = search_galleries.photos(tmp_path / "photos", 40)
    (tmp_path / "photos" / "zz.png").write_bytes(b"no picture")
    words = ["index", tmp_path / "photos", "--index", tmp_path / "i", "--model", tiny["clip"]]
    together = ["--coordinator", f"127.0.0.1:{free_port()}", "--num_processes", 2, "--process_id"]
    both = [start(*words, *together, number) for number in range(2)]
    outputs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert "40 photos indexed: 21 encoded" in outputs[0][0] and "skipped: zz.png" in outputs[0][0]
    index = store.open_index(tmp_path / "i")
    model = tpr_jax.from_pretrained(tiny["clip"])
    feats = model.encode_images([tmp_path / "photos" / name for name in names])
    assert np.abs(index.vectors.astype(np.float32) - feats).max() < 1e-3


@pytest.mark.slow
def test_a_slow_process_takes_its_share_of_the_same_list(tiny, tmp_path):
    """The second process lists the photos when the first has already encoded its share."""
    search_galleries.photos(tmp_path / "photos", 40)
    words = ["index", tmp_path / "photos", "--index", tmp_path / "i", "--model", tiny["clip"]]
    together = ["--coordinator", f"127.0.0.1:{free_port()}", "--num_processes", 2, "--process_id"]
    code = f"""
import sys, time
from pathlib import Path
from tpr_jax.search import __main__
from tpr_jax.search.index import build

load_cache = build.load_cache

def load_late(*args):
    deadline = time.monotonic() + 10
    while not list(Path({str(tmp_path / "i" / "parts")!r}).glob("*.npz")) and time.monotonic() < deadline:
        time.sleep(0.05)
    return load_cache(*args)

build.load_cache = load_late
sys.exit(__main__.main())
"""
    both = [start(*words, *together, 0), start(*words, *together, 1, code=code)]
    outputs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert "40 photos indexed: 20 encoded" in outputs[0][0], outputs
    assert len(store.open_index(tmp_path / "i").vectors) == 40


@pytest.fixture
def odd(folders, tmp_path):
    """Returns a folder of files that are not readable images, each for another reason."""
    whole = (folders["photos"] / "000.png").read_bytes()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("a woman in a red coat")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "pdf.png").write_bytes(b"%PDF-1.4 no picture")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "sub").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        *("missing.png", "folder.png", "empty.png", "text.jpg", "cut.png", "pdf.png", "loop.png", "gone.png"),
        *("sub/a.png", "", "x" * 300),
    ],
)
def test_rejects_images_that_cannot_be_read(folders, odd, name, capsys):
    file = str(odd / name) if name else ""
    assert main(["query", "--image", file, "--index", str(folders["i"])]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1 and "Traceback" not in line
    assert name in line
