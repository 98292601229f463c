"""The command: pages and figures of each kind, user photos and data sets, and errors."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import search_galleries
from tests.conftest import made_once
from tests.saved_models import trained
from tests.tiny_clip import quick_compilation  # noqa: F401
from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.data.tokenizer import folder_tokenizer
from tpr_jax.models.methods import dm_adapter, prefix
from tpr_jax.visualize import __main__ as command
from tpr_jax.visualize import folder

METHODS = {"experts": dm_adapter(3, 2, 8), "prefix": prefix(length=3)}
VOID = {"img", "meta", "br"}


class Page(HTMLParser):
    """Collects a page's text, images and references; fails if tags do not match."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.words, self.sources, self.alts, self.others = [], "", [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name == "src":
                self.sources.append(value)
            if name == "alt":
                self.alts.append(value)
            if name in ("href", "srcset", "action", "data") or name.startswith("on"):
                self.others.append((tag, name, value))
        assert tag not in ("script", "link", "iframe", "object")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def read(path: Path) -> Page:
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.sources and all(source.startswith("data:image/") for source in page.sources)
    assert not page.others and len(page.alts) == len(page.sources) and all(page.alts)
    assert "@import" not in text and not re.search(r"url\(", text)
    return page


@pytest.fixture(scope="module")
def models(tiny, tmp_path_factory):
    """Saves a model with a mixture and one with a prefix, by the command that they are for."""

    def make(root):
        clip = Path(tiny["clip"])
        for name, method in METHODS.items():
            model = trained(clip, method, (32, 16), tokenizer=folder_tokenizer(clip))
            model.save_pretrained(root / name)

    root = made_once(tmp_path_factory, "visualized", make)
    return {name: str(root / name) for name in METHODS} | {"plain": tiny["clip"]}


def draw(*words) -> None:
    command.run(["visualize", *map(str, words)])


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("grid", ["grid.png"]),
        (
            "experts",
            ["experts_load.png", *(f"experts_{k}_{i}.png" for k in ("photo", "text") for i in (1, 2))],
        ),
        ("prefix", ["prefix_heads.png", *(f"prefix_{k}_{i}.png" for k in ("photo", "text") for i in (1, 2))]),
        ("words", ["words_1.png", "words_2.png"]),
        ("map", ["map.png"]),
    ],
)
def test_page_of_a_data_set(name, figures, models, tiny, tmp_path, capsys):
    some = ["--identities", 3] if name == "map" else ["--number", 2]
    model = models.get(name, models["plain"])
    draw(name, "--model", model, "--out", tmp_path / "out", "--data_dir", tiny["data"], *some)
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert found == sorted([f"{name}.html", folder.MANIFEST, *figures])
    for figure in figures:
        image = Image.open(tmp_path / "out" / figure)
        assert image.format == "PNG" and len(np.unique(np.asarray(image.convert("L")))) > 20
    page = read(tmp_path / "out" / f"{name}.html")
    assert model in page.words and "test" in page.words
    told = capsys.readouterr().out
    assert f"{tmp_path / 'out'}/{name}.html" in told and told.count("\n") == 1


@pytest.mark.parametrize("name", ["grid", "experts", "prefix", "words", "map"])
def test_page_of_the_users_photos_and_sentences(name, models, tmp_path):
    names = search_galleries.photos(tmp_path / "photos", 5)
    text = 'red "coat" <b>& blue</b> 帽子 $x_1$'
    model = models.get(name, models["plain"])
    draw(name, "--model", model, "--out", tmp_path / "out", "--photos", tmp_path / "photos", "--text", text)
    page = read(tmp_path / "out" / f"{name}.html")
    assert text in page.words and "right person" not in page.words
    if name in ("experts", "prefix", "words"):
        assert names[0] in page.words and names[2] in page.words and names[3] not in page.words


def test_photos_of_a_table_and_a_single_file(models, tmp_path):
    search_galleries.photos(tmp_path, 2)
    (tmp_path / "t.csv").write_text("image,x,y,w,h\n000.png,0,0,10,20\n001.png,,,,\n")
    places = [tmp_path / "t.csv", tmp_path / "001.png"]
    draw("grid", "--model", models["plain"], "--out", tmp_path / "out", "--photos", *places, "--text", "red")
    assert "the first 3 of 3 photos" in read(tmp_path / "out" / "grid.html").words


def test_drawing_again_replaces_only_its_own_files(models, tiny, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["words", "--model", models["plain"], "--out", out, "--data_dir", tiny["data"], "--number"]
    draw(*words, 2)
    first = (out / "words.html").read_bytes()
    (out / ".words.html.abcd1234.tmp").write_text("left by a killed run")
    draw(*words, 1)
    assert (
        not list(out.glob(".*"))
        and not (out / "words_2.png").exists()
        and (out / "words.html").read_bytes() != first
    )
    assert json.loads((out / folder.MANIFEST).read_text()) == {"words": ["words.html", "words_1.png"]}
    (out / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "notes.txt" in explained(capsys, *words, 1)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def explained(capsys, *words) -> str:
    with pytest.raises(SystemExit) as ended:
        explain_and_exit(command.run, ["visualize", *map(str, words)])
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1, line
    return line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "required: grid|experts"),
        (["look"], "'look' is unknown: "),
        (["grid", "--model", "m"], "--out"),
        (["grid", "--out", "{tmp}/out"], "--model"),
        (["experts", "--model", "{plain}"], "zero_shot, has no mixture of experts: dm_adapter and"),
        (["prefix", "--model", "{experts}"], "dm_adapter, has no prefix tokens: up_person and prefix"),
        (["grid", "--model", "{plain}", "--split", "tset"], "split 'tset' is unknown"),
        (["grid", "--model", "{plain}", "--dataset", "cuhk"], "--dataset cuhk: is unknown: choose from"),
        (["grid", "--model", "{plain}", "--dataset", "folder"], "--data_dir DIR"),
        (["grid", "--model", "{plain}", "--data_dir", "{tmp}/nothing"], "nothing"),
        (["grid", "--model", "{plain}", "--photos", "{tmp}/empty", "--text", "red"], "empty: has no photos"),
        (["grid", "--model", "{plain}", "--photos", "{tmp}/gone", "--text", "red"], "gone: no such folder"),
        (["grid", "--model", "{plain}", "--photos", "{tmp}/photos"], "--text is missing"),
        (["words", "--model", "{plain}", "--photos", "{tmp}/photos"], "--text is missing"),
        (["words", "--model", "{plain}", "--photos", "{tmp}/photos", "--text", " "], "an empty sentence"),
        (["words", "--model", "{plain}", "--photos", "{tmp}/bad.jpg", "--text", "red"], "bad.jpg: "),
        (["map", "--model", "{plain}", "--photos", "{tmp}/bad.jpg"], "bad.jpg: "),
        (["map", "--model", "{plain}", "--photos", "{tmp}/photos", "--text", "red"], "at least 4"),
        (
            ["map", "--model", "{plain}", "--photos", "{tmp}/photos", "--split", "test"],
            "--split and --photos",
        ),
        (["map", "--model", "{plain}", "--seed", "-1"], "--seed -1"),
        (["grid", "--model", "{plain}", "--number", "0"], "--number 0: must be at least 1"),
        (["grid", "--model", "{plain}", "--top_k", "-3"], "--top_k -3: must be at least 1"),
        (["grid", "--model", "{plain}", "--image_size", "0", "8"], "--image_size 0 8"),
        (["grid", "--model", "{tmp}/no_model"], "no_model"),
        (["grid", "--model", "{plain}", "--out", "{tmp}/bad.jpg"], "bad.jpg: is a file"),
        (["grid", "--model", "{plain}", "--out", "{tmp}/photos"], "holds 000.png, which was not drawn here"),
    ],
)
def test_reports_errors_in_one_line(words, told, models, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    search_galleries.photos(tmp_path / "photos", 2)
    (tmp_path / "bad.jpg").write_bytes(b"not an image")
    words = [word.format(tmp=tmp_path, **models) for word in words]
    if words and "--out" not in words and told != "--out":
        words += ["--out", str(tmp_path / "out")]
    assert told in explained(capsys, *words)
    assert not (tmp_path / "out").exists()


def test_reports_a_model_without_a_tokenizer(own_clip, tmp_path, capsys):
    (own_clip / "tokenizer.json").unlink()
    search_galleries.photos(tmp_path / "photos", 2)
    words = ["grid", "--model", own_clip, "--out", tmp_path / "out", "--photos", tmp_path / "photos"]
    assert "has no tokenizer.json" in explained(capsys, *words, "--text", "red")


def test_page_contains_the_pixels_of_a_photo(models, tmp_path):
    """The first image of the grid has the pixels of the photo."""
    import base64

    pixels = np.full((32, 16, 3), (200, 30, 30), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    draw(
        "grid",
        "--model",
        models["plain"],
        "--out",
        tmp_path / "o",
        "--photos",
        tmp_path / "a.png",
        "--text",
        "x",
    )
    source = read(tmp_path / "o" / "grid.html").sources[0]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
    assert np.abs(shown.astype(int) - (200, 30, 30)).max() < 6
