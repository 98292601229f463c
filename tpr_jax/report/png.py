"""Renders report.png: charts and table at the top, queries with the images they retrieve below."""

import io
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tpr_jax.metrics.retrieval import METRIC_KEYS
from tpr_jax.report.charts import draw_loss, draw_recall, style_axes
from tpr_jax.report.facts import QueryResult, ReportFacts, TableRow, image_aspect
from tpr_jax.report.style import DPI, GREEN, INK, MUTED, PAPER, RULE

# The layout, in pixels of a page this wide.
WIDTH, MARGIN, GUTTER = 1600.0, 50.0, 60.0
COLUMNS, PHOTOS = 2, 10
PHOTO_GAP, CAPTION_HEIGHT, QUERY_GAP, HEAD_HEIGHT, REMARK_HEIGHT = 8, 58, 34, 560, 22
COLUMN_WIDTH = (WIDTH - 2 * MARGIN - GUTTER) / COLUMNS


def render(facts: ReportFacts) -> bytes:
    """Renders the image as a PNG."""
    photo_width = COLUMN_WIDTH / PHOTOS - PHOTO_GAP
    photo_height = photo_width * image_aspect(facts.queries)
    row_height = CAPTION_HEIGHT + photo_height + QUERY_GAP
    rows = -(-len(facts.queries) // COLUMNS)
    remarks = textwrap.wrap(" ".join(facts.remarks), 160)
    shift = REMARK_HEIGHT * len(remarks)
    head = HEAD_HEIGHT + shift
    height = head + rows * row_height + (55 if rows else 0)
    figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)

    page = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))
    page.axis("off")
    page.text(MARGIN, 62, facts.title, size=24, weight="bold", color=INK)
    subtitle = "   ·   ".join(f"{tile.label}: {tile.value}" for tile in facts.tiles)
    page.text(MARGIN, 98, subtitle, size=12.5, color=MUTED)
    for i, line in enumerate(remarks):
        page.text(MARGIN, 124 + i * REMARK_HEIGHT, line, size=12.5, color=MUTED, parse_math=False)
    draw_loss(_chart_axes(figure, MARGIN + 45, 165 + shift), facts.loss)
    draw_recall(_chart_axes(figure, MARGIN + 545, 165 + shift), facts.recall)
    _draw_table(page, facts.rows, left=MARGIN + 1000, top=158.0 + shift, width=WIDTH - 2 * MARGIN - 1000)
    if rows:
        page.text(MARGIN, head + 4, "What the queries retrieve", size=17, weight="bold", color=INK)
        text = "The first ten photos of each query, best first; photos of the right person are framed."
        page.text(MARGIN, head + 32, text, size=12.5, color=MUTED)
    for i, query in enumerate(facts.queries):
        left = MARGIN + (i % COLUMNS) * (COLUMN_WIDTH + GUTTER)
        top = head + 60 + (i // COLUMNS) * row_height
        _draw_query(page, query, left, top, photo_width, photo_height)

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A caption in a script that the font lacks shows boxes; report.html has it in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _chart_axes(figure: Figure, left: float, top: float) -> Axes:
    page_height, width, height = figure.get_figheight() * DPI, 400, 300
    box = (left / WIDTH, 1 - (top + height) / page_height, width / WIDTH, height / page_height)
    axes = figure.add_axes(box)
    style_axes(axes)
    return axes


def _draw_table(page: Axes, rows: Sequence[TableRow], left: float, top: float, width: float) -> None:
    """Draws a block for each direction, with a line for each row."""
    label_width = 0.42 * width
    step = (width - label_width) / len(METRIC_KEYS)
    y = top
    for direction, heading in (("t2i", "Text to image, %"), ("i2t", "Image to text, %")):
        page.text(left, y, heading, size=14, weight="bold", color=INK, va="center")
        for i, key in enumerate(METRIC_KEYS):
            x = left + label_width + (i + 1) * step
            page.text(x, y, key.replace("R", "R@"), size=10.5, color=MUTED, ha="right", va="center")
        for row in rows:
            y += 31
            page.plot([left, left + width], [y - 15.5] * 2, color=RULE, linewidth=0.8)
            weight, color = ("bold", GREEN) if row.emphasized else ("normal", INK)
            label = row.label.replace("Best on val (epoch ", "Best on val (ep. ")
            page.text(left, y, label, size=10.5, color=INK, weight=weight, va="center")
            for i, key in enumerate(METRIC_KEYS):
                x, value = left + label_width + (i + 1) * step, f"{row.metrics[direction][key]:.1f}"
                page.text(x, y, value, size=11, color=color, weight=weight, ha="right", va="center")
        y += 58


def _draw_query(
    page: Axes, query: QueryResult, left: float, top: float, photo_width: float, photo_height: float
) -> None:
    lines = textwrap.wrap(" ".join(query.caption.split()), 88) or ["(empty caption)"]
    if len(lines) > 2:
        lines = [lines[0], lines[1][:84].rstrip() + " …"]
    page.text(
        left,
        top + CAPTION_HEIGHT - 10,
        "\n".join(lines),
        size=11.5,
        color=INK,
        va="bottom",
        linespacing=1.35,
        parse_math=False,  # otherwise a dollar sign starts a formula
    )
    top += CAPTION_HEIGHT
    for i, ranked in enumerate(query.ranked[:PHOTOS]):
        x = left + i * (photo_width + PHOTO_GAP)
        extent = (x, x + photo_width, top + photo_height, top)
        page.imshow(ranked.thumbnail, extent=extent, aspect="auto", zorder=1)
        edge: dict[str, Any] = (
            {"edgecolor": GREEN, "linewidth": 4.5} if ranked.is_match else {"edgecolor": RULE, "linewidth": 1}
        )
        page.add_patch(Rectangle((x, top), photo_width, photo_height, fill=False, zorder=3, **edge))
        if ranked.is_match:  # a check mark beside the color, for readers who are color-blind
            page.add_patch(Rectangle((x, top), 19, 19, color=GREEN, zorder=4, linewidth=0))
            page.text(x + 9, top + 9.5, "✓", size=10.5, color=PAPER, ha="center", va="center", zorder=5)
    assert isinstance(page.figure, Figure)
    # imshow fits the limits to its last image.
    page.set_xlim(0, WIDTH)
    page.set_ylim(page.figure.get_figheight() * DPI, 0)
