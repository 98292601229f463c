"""The plot of a comparison: every complete row, labeled without overlaps."""

import dataclasses
import io
import itertools

import pytest
from PIL import Image

from tpr_jax.compare import plot
from tpr_jax.compare.outcome import RunOutcome
from tpr_jax.compare.table import summarize


def row(name, r1s, params, dataset="mini_pedes", direction="t2i"):
    scores = [{direction: dict.fromkeys(("R1", "R5", "R10", "mAP", "mINP"), r1)} for r1 in r1s]
    numbers = {"steps": 5, "trainable_params": params, "total_params": 10**7, "saved_bytes": 4 * params}
    done = [RunOutcome("done", seed_scores, **numbers) for seed_scores in scores]
    return summarize(name, dataset, done or [RunOutcome("failed")], direction)


ROWS = [
    row("zero_shot", [4.75, 4.75], 0),
    row("linear_probe", [6.0, 6.4], 70_000),
    row("one_adapter", [10.0, 12.0], 103_000),
    row("lora", [11.1, 10.9], 98_000),
    row("one_seed", [12.5], 420_000),
    row("dm_adapter", [12.0, 13.0], 466_000),
    row("full_finetune", [12.0, 14.0], 3_900_000),
    row("crashed", [], 5_000),
]


def test_draws_points_error_bars_and_names():
    (axes,) = plot.draw(ROWS).axes
    assert (
        axes.get_title(loc="left").startswith("MiniPEDES, rendered: text to image, R@1")
        and axes.get_xscale() == "log"
    )
    found = {}
    for bar in axes.containers:
        (x,), (y,) = bar.lines[0].get_data()
        (segment,) = bar.lines[2][0].get_segments()
        found[x] = (y, *segment[:, 1])
    # 12 and 13: mean 12.5, deviation 0.707; one seed alone has none.
    assert found[466_000] == pytest.approx((12.5, 12.5 - 0.5**0.5, 12.5 + 0.5**0.5))
    assert found[420_000] == pytest.approx((12.5, 12.5, 12.5))
    assert sorted(found) == [70_000, 98_000, 103_000, 420_000, 466_000, 3_900_000]
    (line,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert list(line.get_ydata()) == [4.75, 4.75]
    assert {text.get_text() for text in axes.texts} == {row.name for row in ROWS} - {"crashed"}


def test_names_do_not_overlap_or_leave_the_panel():
    figure = plot.draw(ROWS)
    (axes,) = figure.axes
    renderer = figure.canvas.get_renderer()
    boxes = {text.get_text(): text.get_window_extent(renderer) for text in axes.texts}
    for first, second in itertools.combinations(boxes, 2):
        assert not boxes[first].overlaps(boxes[second]), (first, second)
    for name, box in boxes.items():
        assert axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1), name
        assert axes.bbox.containsy(box.y0) and axes.bbox.containsy(box.y1), name


def test_draws_a_panel_for_each_data_set_and_direction():
    rows = [*ROWS, row("dm_adapter:cuhk_pedes", [70.0], 15_669_528, "cuhk_pedes", "i2t")]
    titles = [axes.get_title(loc="left") for axes in plot.draw(rows).axes]
    assert titles == ["MiniPEDES, rendered: text to image, R@1, %", "CUHK-PEDES: image to text, R@1, %"]


LONG = (
    "Also trained on SYNTH-PEDES, with weight 0.5, for $x^$ and a folder with a rather long name, and so on. "
    * 2
).strip()


@pytest.mark.parametrize("rows", [ROWS, [*ROWS, row("other", [70.0], 15_669_528, "cuhk_pedes")]])
def test_writes_what_the_scores_depend_on_below_the_panels(rows):
    few = "Few-shot: trained on 10 of 300 identities, 40 images and 80 captions."
    remarks = {"lora": (few, LONG), "crashed": ()}
    told = [dataclasses.replace(one, remarks=remarks.get(one.name, (few,))) for one in rows]
    figure = plot.draw(told)
    lines = figure.get_supxlabel().splitlines()
    assert lines[0] == few and " ".join(lines[1:]) == f"lora: {LONG}"
    renderer = figure.canvas.get_renderer()
    (label,) = [text for text in figure.texts if text.get_text().startswith(few)]
    box = label.get_window_extent(renderer)
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0
    plain = plot.draw(rows).axes[0].bbox.height
    for axes in figure.axes:
        assert axes.get_tightbbox(renderer).y0 > box.y1
        assert axes.bbox.height == pytest.approx(plain, rel=0.1)


def test_has_no_line_below_the_panels_without_remarks():
    assert plot.draw(ROWS).get_supxlabel() == ""


@pytest.mark.parametrize(
    "rows",
    [
        [row("crashed", [], 5_000)],
        [row("zero_shot", [4.0], 0)],
        [row("$x^$", [0.0, 0.0], 7)],
        [row("a", [1.0], 5_000), row("b", [1.0], 5_000)],
    ],
    ids=["nothing", "zero-shot only", "odd name", "the same place"],
)
def test_draws_few_rows(rows):
    image = Image.open(io.BytesIO(plot.render_png(rows)))
    assert image.size == (1050, 660)
