"""The report shows what it was given, needs no other file, and no input breaks it."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tpr_jax.errors import UserError
from tpr_jax.report import charts, facts
from tpr_jax.report.write import write_report


def metrics(r1):
    return {
        way: {"R1": r1, "R5": r1 + 1, "R10": r1 + 2, "mAP": r1 + 3, "mINP": r1 + 4} for way in ("t2i", "i2t")
    }


RESULTS = {
    "method": "dm_adapter",
    "dataset": "mini_pedes",
    "trainable_params": 250_000,
    "total_params": 4_000_000,
    "steps": 1200,
    "seconds": 412.3,
    "zero_shot": {"test": metrics(10.0)},
    "final": {"val": metrics(41.5), "test": metrics(37.5)},
    "best_on_val": {"epoch": 3, "test": metrics(38.5)},
}
HISTORY = [{"step": s, "epoch": s / 10, "loss": 5 - s / 50} for s in range(1, 100)] + [
    {"step": 10 * e, "epoch": e, "val": metrics(10.0 * e)} for e in (1, 2, 3)
]


@pytest.fixture
def photos(tmp_path):
    """Returns three plain photos, red, green and blue."""
    paths = []
    for i, color in enumerate(("red", "lime", "blue")):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.new("RGB", (64, 192), color).save(paths[-1])
    return paths


def retrievals(paths, caption="a man"):
    ranked = [{"path": p, "pid": np.int64(i), "score": np.float32(0.9 - i / 10)} for i, p in enumerate(paths)]
    return [{"caption": caption, "pid": 1, "ranked": ranked}]


class Page(HTMLParser):
    """Collects the tags and texts of a page; fails if tags do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())


def written(tmp_path, **parts):
    html_path, png_path = write_report(tmp_path, **parts)
    assert sorted(p.name for p in tmp_path.glob("report*")) == ["report.html", "report.png"]
    with open(html_path, encoding="utf-8") as file:
        return Page(file.read()), Image.open(png_path).convert("RGB")


def test_page_shows_numbers_photos_and_frames(tmp_path, photos):
    page, _ = written(tmp_path, history=HISTORY, results=RESULTS, retrievals=retrievals(photos))
    assert "DM-Adapter on MiniPEDES, rendered" in page.texts
    assert {"10.0 → 37.5", "+27.5 on the test split", "250 k", "6.2 % of 4 M", "6 min 52 s"} <= set(
        page.texts
    )
    assert {"37.5", "38.5", "41.5", "Best on val (epoch 3), test"} <= set(page.texts)
    assert "first right photo at rank 2" in page.texts
    images = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    for source, color in zip(images, ((254, 0, 0), (0, 255, 1), (0, 0, 254)), strict=True):
        raw = base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))
        assert np.abs(np.array(Image.open(io.BytesIO(raw)))[96, 32] - np.array(color)).max() <= 4
    assert ["match" in attrs.get("class", "") for tag, attrs in page.tags if tag == "li"] == [
        False,
        True,
        False,
    ]


def test_remarks_stand_below_the_title_and_move_the_rest_down(tmp_path, photos):
    results = RESULTS | {"backbone": {"name": "<&$x_$>"}, "skipped": {"count": 2}}
    plain = written(tmp_path, history=HISTORY, results=RESULTS, retrievals=retrievals(photos))[1]
    page, png = written(tmp_path, history=HISTORY, results=results, retrievals=retrievals(photos))
    assert "Backbone: <&$x_$>. 2 photos could not be read and were skipped." in page.texts
    shift = png.height - plain.height
    assert shift > 0
    assert np.all(np.array(plain)[112:130] == 255) and np.any(np.array(png)[112:130] != 255)
    before, after = (
        np.argwhere(np.all(np.array(p) == (0, 255, 0), axis=2)).min(axis=0) for p in (plain, png)
    )
    assert np.abs(after - before - (shift, 0)).max() <= 1  # the lime photo
    tables = [np.argwhere(np.array(p)[:, 1060:1560].min(axis=2) < 200)[:, 0] for p in (plain, png)]
    first, second = (rows[rows > 130].min() for rows in tables)
    assert abs(second - first - shift) <= 1


def test_labels_the_best_epoch_on_test():
    results = RESULTS | {"best_on_test": {"epoch": 9, "test": metrics(39.5), "note": "it flatters"}}
    rows = {label: (values["t2i"]["R1"], stress) for label, values, stress in facts.table_rows(results)}
    assert rows["Best on test itself (epoch 9), as papers do"] == (39.5, False)
    assert rows["Best on val (epoch 3), test"] == (38.5, False)
    assert rows["After training, test"] == (37.5, True)
    assert len(facts.table_rows(RESULTS)) == len(rows) - 1


def test_page_needs_no_other_file(tmp_path, photos):
    page, _ = written(tmp_path, history=HISTORY, results=RESULTS, retrievals=retrievals(photos))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe"}
    for _, attrs in page.tags:
        for name in ("src", "href"):
            assert attrs.get(name, "data:").startswith("data:")
    assert "url(" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_captions_are_escaped(tmp_path, photos):
    caption = "<script>alert('x')</script> & \"$5$\" \u4e2d"
    page, _ = written(tmp_path, history=[], results=RESULTS, retrievals=retrievals(photos, caption))
    assert caption in page.texts
    assert "script" not in {tag for tag, _ in page.tags}


def test_png_has_the_photos_and_one_green_frame(tmp_path, photos):
    _, png = written(tmp_path, history=HISTORY, results=RESULTS, retrievals=retrievals(photos))
    pixels = np.array(png).reshape(-1, 3)
    counts = [np.sum(np.all(pixels == c, axis=1)) for c in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    assert min(counts) > 5000
    below = np.array(png)[600:]
    frame = np.argwhere(np.all(below == (0x1F, 0x9D, 0x55), axis=2))
    lime = np.argwhere(np.all(below == (0, 255, 0), axis=2))
    assert len(frame) > 1000
    assert np.abs(frame.min(axis=0) - lime.min(axis=0)).max() < 8
    assert np.abs(frame.max(axis=0) - lime.max(axis=0)).max() < 8


@pytest.mark.parametrize(
    ("history", "results"),
    [
        ([], {}),
        ([{"step": 1, "epoch": 1, "loss": 2.0}], {"method": "other", "dataset": "mine"}),
        ([{"step": s, "epoch": 1, "loss": float("nan")} for s in (1, 2)], {"final": {"test": None}}),
        (
            [{"step": 1, "epoch": 1, "test": metrics(0.0)}],
            {"final": {"test": metrics(0.0)}, "best_on_val": None},
        ),
    ],
)
def test_runs_with_little_to_show(tmp_path, history, results):
    _, png = written(tmp_path, history=history, results=results, retrievals=[])
    assert png.width == 1600


def test_unreadable_photos_become_empty_frames(tmp_path, photos):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(Path(photos[0]).read_bytes()[:60])
    wide = tmp_path / "wide.png"
    Image.new("I;16", (900, 3)).save(wide)
    paths = [*photos, "/missing.jpg", str(tmp_path / "empty.jpg"), str(tmp_path / "cut.png"), str(wide)]
    page, _ = written(tmp_path, history=[], results=RESULTS, retrievals=retrievals(paths))
    assert sum(tag == "img" for tag, _ in page.tags) == 7


def test_thumbnails_are_upright(tmp_path):
    photo = Image.new("RGB", (300, 100), "red")
    exif = photo.getexif()
    exif[274] = 6  # turned by a quarter
    photo.save(tmp_path / "turned.jpg", exif=exif)
    assert facts.make_thumbnail(tmp_path / "turned.jpg").size == (85, 256)


def test_moving_average_is_a_mean_of_neighbors():
    points = [(x, float(x % 2)) for x in range(40)]
    smooth = facts.moving_average(points, fraction=0.05)
    assert [x for x, _ in smooth] == list(range(40))
    assert smooth[10][1] == pytest.approx(2 / 3) and smooth[0][1] == pytest.approx(1 / 2)
    assert facts.moving_average([(5, 3.0)]) == [(5, 3.0)]


def ticks(svg, axis):
    """The labels of an axis's ticks, as numbers."""
    groups = re.findall(rf'<g id="{axis}tick_\d+">.*?<text[^>]*>([^<]*)</text>', svg, re.DOTALL)
    return [float(label.replace("\u2212", "-").replace(",", "")) for label in groups]


@pytest.mark.parametrize("span", [(0, 57.3), (1.2, 6.4), (-2, 2), (1, 1200)])
def test_ticks_are_evenly_spaced_and_inside(span):
    svg = charts.loss_svg([(0, span[0]), (10, span[1])])
    for axis, (low, high) in (("x", (0, 10)), ("y", span)):
        marks = ticks(svg, axis)
        margin = 0.06 * (high - low)
        assert 2 <= len(marks) <= 10
        assert low - margin <= marks[0] and marks[-1] <= high + margin
        np.testing.assert_allclose(np.diff(marks), marks[1] - marks[0], rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2])  # a run that was resumed may log a step twice
@pytest.mark.parametrize(("step", "loss"), [(18, 3.2), (12_345, 300.25), (0, 0.0), (1_234_567, 1e-9)])
def test_one_logged_loss_is_a_point_with_its_step_below(step, loss, count):
    svg = charts.loss_svg([(step, loss)] * count)
    assert ticks(svg, "x") == [step]
    marks = ticks(svg, "y")
    assert len(set(marks)) == len(marks) >= 2 and marks[0] <= loss <= marks[-1]
    points = re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"[^>]*style="fill: var\(--blue\)', svg)
    assert len(points) == count
    (x, y), (width, height) = map(float, points[0]), charts.SVG_SIZE
    assert 36 < x < width and 0 < y < height - 40  # inside the axes


@pytest.mark.parametrize("steps", [(1, 2), (26_000, 26_001), (0, 3)])
def test_steps_and_epochs_are_whole_numbers(steps):
    for svg in (
        charts.loss_svg([(step, 2.0) for step in steps]),
        charts.recall_svg({"t2i": [(step, 9.0) for step in steps]}),
    ):
        marks = ticks(svg, "x")
        assert marks == list(range(steps[0], steps[1] + 1))


def test_losses_that_hardly_differ_have_short_ticks():
    svg = charts.loss_svg([(1, 6.931471805), (2, 6.931471806)])
    assert max(len(str(mark)) for mark in ticks(svg, "y")) <= 5 and "1e" not in svg


def test_charts_have_a_label_tooltips_and_the_colors_of_the_page():
    curves = facts.recall_curves(HISTORY)
    svg = charts.recall_svg(curves)
    page = Page(svg)
    assert page.tags[0][0] == "svg" and page.tags[0][1]["aria-label"] == "R@1 by epoch, %"
    assert page.tags[0][1]["viewbox"] == "0 0 440 280" and "width" not in page.tags[0][1]
    assert {"epoch", "text to image, val", "image to text, val"} <= set(page.texts)
    hints = [text for text in page.texts if text.startswith("epoch ")]
    assert hints == 2 * [f"epoch {e}: {10 * e:.2f} %" for e in (1, 2, 3)]
    assert {"var(--green)", "var(--amber)", "var(--ink)"} <= set(re.findall(r"var\(--\w+\)", svg))
    assert svg == charts.recall_svg(curves)


def test_the_loss_chart_shows_every_step():
    points = facts.loss_curve(HISTORY)
    svg = charts.loss_svg(points)
    lengths = [len(re.findall("[ML] ", path)) for path in re.findall(r'd="([^"]*)"', svg)]
    assert lengths.count(len(points)) == 2  # the losses and their moving average


def test_removes_what_a_killed_report_left(tmp_path):
    (tmp_path / ".report.png.abcd1234.tmp").write_text("x")
    write_report(tmp_path, history=HISTORY, results=RESULTS, retrievals=[])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.png"]


def test_a_full_disk_keeps_the_old_report(tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"no space left on the disk of .*report.html"):
        write_report(tmp_path, history=HISTORY, results=RESULTS, retrievals=[])
    assert (tmp_path / "report.html").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
