"""report.png: curves and table above, the queries with their first photos below, in one figure."""

import io
import textwrap
import warnings

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tpr_jax.metrics.retrieval import METRIC_KEYS
from tpr_jax.report import write as report

INK, MUTED, RULE, PAPER = "#1d2229", "#6a7280", "#d9dce1", "#ffffff"
BLUE, AMBER, GREEN = "#2f6fdd", "#d9822b", "#1f9d55"

# Everything below the curves is laid out in pixels of a page this wide.
WIDTH, MARGIN, GUTTER, COLUMNS, PHOTOS = 1600, 50, 60, 2, 10
PHOTO_GAP, CAPTION_HEIGHT, QUERY_GAP, HEAD_HEIGHT, DPI = 8, 58, 34, 560, 100


def picture(facts: dict) -> bytes:
    """PNG of the facts that `report.write_report` gathers."""
    photo_width = (WIDTH - 2 * MARGIN - GUTTER) / COLUMNS / PHOTOS - PHOTO_GAP
    photo_height = photo_width * report.photo_aspect(facts["queries"])
    row_height = CAPTION_HEIGHT + photo_height + QUERY_GAP
    rows = -(-len(facts["queries"]) // COLUMNS)
    height = HEAD_HEIGHT + rows * row_height + (55 if rows else 0)
    figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)

    page = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))
    page.axis("off")
    page.text(MARGIN, 62, facts["title"], size=24, weight="bold", color=INK)
    page.text(MARGIN, 98, _subtitle(facts["tiles"]), size=12.5, color=MUTED)
    _draw_loss(_axes(figure, height, MARGIN + 45, 165, 400, 300), facts["loss"])
    _draw_recall(_axes(figure, height, MARGIN + 545, 165, 400, 300), facts["recall"])
    _draw_table(page, facts["rows"], left=MARGIN + 1000, top=158, width=WIDTH - 2 * MARGIN - 1000)
    if rows:
        page.text(MARGIN, HEAD_HEIGHT + 4, "What the queries found", size=17, weight="bold", color=INK)
        text = "The first ten photos of each, best first; those of the right person are framed and ticked."
        page.text(MARGIN, HEAD_HEIGHT + 32, text, size=12.5, color=MUTED)
    for i, query in enumerate(facts["queries"]):
        left = MARGIN + (i % COLUMNS) * ((WIDTH - 2 * MARGIN - GUTTER) / COLUMNS + GUTTER)
        top = HEAD_HEIGHT + 60 + (i // COLUMNS) * row_height
        _draw_query(page, query, left, top, photo_width, photo_height)

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A caption in a script that the font lacks shows boxes; the page beside this picture has it in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _axes(figure, page_height, left, top, width, height):
    box = (left / WIDTH, 1 - (top + height) / page_height, width / WIDTH, height / page_height)
    axes = figure.add_axes(box)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(colors=MUTED, labelsize=11, length=0, pad=6)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def _draw_loss(axes, points):
    axes.set_title("Training loss", loc="left", size=14, weight="bold", color=INK, pad=12)
    axes.set_xlabel("step", size=11, color=MUTED)
    if not points:
        return _nothing(axes)
    smooth = report.smoothed(points)
    axes.plot(*zip(*points, strict=True), color=BLUE, alpha=0.25, linewidth=1)
    axes.plot(*zip(*smooth, strict=True), color=BLUE, linewidth=2.2, marker="o" if len(points) == 1 else None)


def _draw_recall(axes, curves):
    axes.set_title("R@1 by epoch, %", loc="left", size=14, weight="bold", color=INK, pad=12)
    axes.set_xlabel("epoch", size=11, color=MUTED)
    if not curves:
        return _nothing(axes)
    for color, (label, points) in zip((GREEN, AMBER), curves.items(), strict=False):
        style = {"color": color, "linewidth": 2.2, "marker": "o", "markersize": 4.5}
        axes.plot(*zip(*points, strict=True), label=label, **style)
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right", frameon=False, fontsize=11, labelcolor=INK)


def _nothing(axes):
    axes.text(0.5, 0.5, "nothing was logged", transform=axes.transAxes, ha="center", color=MUTED, size=12)
    axes.set(xticks=[], yticks=[])


def _draw_table(page, rows, left, top, width):
    """One block a direction, one line a set of metrics."""
    label_width = 0.42 * width
    step = (width - label_width) / len(METRIC_KEYS)
    y = top
    for way, heading in (("t2i", "Text to image, %"), ("i2t", "Image to text, %")):
        page.text(left, y, heading, size=14, weight="bold", color=INK, va="center")
        for i, key in enumerate(METRIC_KEYS):
            x = left + label_width + (i + 1) * step
            page.text(x, y, key.replace("R", "R@"), size=10.5, color=MUTED, ha="right", va="center")
        for label, metrics, stress in rows:
            y += 31
            page.plot([left, left + width], [y - 15.5] * 2, color=RULE, linewidth=0.8)
            weight, color = ("bold", GREEN) if stress else ("normal", INK)
            label = label.replace("Best on val (epoch ", "Best on val (ep. ")
            page.text(left, y, label, size=10.5, color=INK, weight=weight, va="center")
            for i, key in enumerate(METRIC_KEYS):
                x, value = left + label_width + (i + 1) * step, f"{metrics[way][key]:.1f}"
                page.text(x, y, value, size=11, color=color, weight=weight, ha="right", va="center")
        y += 58


def _draw_query(page, query, left, top, photo_width, photo_height):
    lines = textwrap.wrap(" ".join(query["caption"].split()), 88) or ["(empty caption)"]
    if len(lines) > 2:
        lines = [lines[0], lines[1][:84].rstrip() + " …"]
    # A dollar sign would otherwise start a formula.
    style = {"size": 11.5, "color": INK, "va": "bottom", "linespacing": 1.35, "parse_math": False}
    page.text(left, top + CAPTION_HEIGHT - 10, "\n".join(lines), **style)
    top += CAPTION_HEIGHT
    for i, photo in enumerate(query["ranked"][:PHOTOS]):
        x = left + i * (photo_width + PHOTO_GAP)
        image = photo["image"]
        page.imshow(image, extent=(x, x + photo_width, top + photo_height, top), aspect="auto", zorder=1)
        edge = (
            {"edgecolor": GREEN, "linewidth": 4.5} if photo["right"] else {"edgecolor": RULE, "linewidth": 1}
        )
        page.add_patch(Rectangle((x, top), photo_width, photo_height, fill=False, zorder=3, **edge))
        if photo["right"]:  # a sign beside the color: not everybody tells green from gray
            page.add_patch(Rectangle((x, top), 19, 19, color=GREEN, zorder=4, linewidth=0))
            page.text(x + 9, top + 9.5, "✓", size=10.5, color=PAPER, ha="center", va="center", zorder=5)
    # imshow fits the limits to its last picture.
    page.set_xlim(0, WIDTH)
    page.set_ylim(page.figure.get_figheight() * DPI, 0)


def _subtitle(tiles):
    return "   ·   ".join(f"{label}: {value}" for label, value, _ in tiles)
