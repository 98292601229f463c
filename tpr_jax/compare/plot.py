"""Draws compare.png: R@1 against the number of trainable parameters, one panel per table."""

import io
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Annotation

from tpr_jax.compare.table import Spread, Summary, remark_lines, split_tables
from tpr_jax.report.style import BLUE, DPI, GREEN, INK, MUTED, PAPER, RULE

Box = tuple[float, float, float, float]  # left, bottom, right, top in pixels


class Place(NamedTuple):
    """A label position: the offset from the data point in points (1/72 inch), and the alignment."""

    right: float
    up: float
    align: str


PANEL = (10.5, 6.6)  # inches
REMARK_COLUMNS, REMARK_HEIGHT = 125, 0.2  # characters of a line for each panel, inches of a line
# Candidate label positions, best first.
PLACES = [Place(12, 0, "left"), Place(-12, 0, "right")] + [
    Place(x, sign * y, align)
    for y in (14, 26, 38, 50)
    for sign in (1, -1)
    for x, align in ((12, "left"), (-12, "right"), (0, "center"))
]
PLACES_ON_LINE = [Place(6, 9, "left"), Place(6, -11, "left")]


def render_png(summaries: Sequence[Summary]) -> bytes:
    """Renders the rows as PNG, without those that have no complete run."""
    buffer = io.BytesIO()
    draw(summaries).savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def draw(summaries: Sequence[Summary]) -> Figure:
    """Draws the rows as a figure, with what their scores depend on below the panels."""
    panels = split_tables(summaries)
    columns = REMARK_COLUMNS * len(panels)
    remarks = [line for remark in remark_lines(summaries) for line in textwrap.wrap(remark, columns)]
    size = (PANEL[0] * len(panels), PANEL[1] + REMARK_HEIGHT * len(remarks))
    layout = ConstrainedLayoutEngine(w_pad=0.25, h_pad=0.2)
    figure = Figure(figsize=size, dpi=DPI, facecolor=PAPER, layout=layout)
    canvas = FigureCanvasAgg(figure)
    drawn = []
    for axes, (title, rows) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        done = [(row, r1) for row in rows if (r1 := row.scores["R1"]) is not None]
        _draw_panel(axes, title, done)
        drawn.append((axes, done))
    if remarks:
        note = figure.supxlabel("\n".join(remarks), x=0.02, ha="left", size=11, color=MUTED)
        note.set_parse_math(False)  # otherwise a dollar sign starts a formula
    figure.draw_without_rendering()  # lays the axes out, which the labels depend on
    for axes, done in drawn:
        _label_points(axes, done, canvas.get_renderer())
    return figure


def _draw_panel(axes: Axes, title: str, rows: list[tuple[Summary, Spread]]) -> None:
    axes.set_title(f"{title}, R@1, %", loc="left", size=15, weight="bold", color=INK, pad=14)
    axes.set_xlabel("trainable parameters (bars: standard deviation over the seeds)", size=11.5, color=MUTED)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    if not rows:
        axes.text(0.5, 0.5, "no run is complete", transform=axes.transAxes, ha="center", color=MUTED, size=12)
        axes.set(xticks=[], yticks=[])
        return
    axes.set_xscale("log")
    # Set before drawing: matplotlib warns about the automatic limits of a single point.
    sizes = [row.trainable_params for row, _ in rows if row.trainable_params] or [1000]
    axes.set_xlim(min(sizes) / 4, max(sizes) * 4)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.xaxis.set_minor_formatter(lambda x, _: "")
    axes.tick_params(which="both", colors=MUTED, labelsize=11, length=0, pad=6)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    for row, r1 in rows:
        if row.trainable_params:
            axes.errorbar(
                row.trainable_params,
                r1.mean,
                yerr=r1.deviation or 0.0,
                color=BLUE,
                marker="o",
                markersize=8,
                capsize=5 if r1.deviation else 0,
            )
        else:  # zero is not on a logarithmic axis
            axes.axhline(r1.mean, color=GREEN, linestyle="--", linewidth=1.8)
    low, high = min(_ends(r1)[0] for _, r1 in rows), max(_ends(r1)[1] for _, r1 in rows)
    room = 0.12 * (high - low) + 0.5
    axes.set_ylim(max(0, low - room), high + room)


def _ends(r1: Spread) -> tuple[float, float]:
    """Returns the ends of an error bar."""
    return r1.mean - (r1.deviation or 0), r1.mean + (r1.deviation or 0)


def _label_points(axes: Axes, rows: list[tuple[Summary, Spread]], renderer: RendererBase) -> None:
    """Writes each name beside its point, at the place that overlaps least with other names and points."""
    taken = []
    for row, r1 in rows:
        if row.trainable_params:
            points = [(row.trainable_params, y) for y in _ends(r1)]
            (x, low), (_, high) = axes.transData.transform(points)
            taken.append((x - 7, low - 7, x + 7, high + 7))
    for row, r1 in sorted(rows, key=lambda pair: bool(pair[0].trainable_params)):
        on_line = not row.trainable_params
        point = (axes.get_xlim()[0] if on_line else row.trainable_params, r1.mean)
        label = axes.annotate(row.name, point, textcoords="offset points", xytext=(0, 0), va="center")
        label.set(size=11.5, color=GREEN if on_line else INK, parse_math=False)

        def overlap(place, label=label):
            return _overlap(_move_label(label, place, renderer), taken, axes.bbox.extents)

        best = min(PLACES_ON_LINE if on_line else PLACES, key=overlap)
        taken.append(_move_label(label, best, renderer))


def _move_label(label: Annotation, place: Place, renderer: RendererBase) -> Box:
    """Moves a label and returns its new extent."""
    label.set(position=(place.right, place.up), ha=place.align)
    return label.get_window_extent(renderer).extents


def _overlap(box: Box, taken: Sequence[Box], frame: Box) -> float:
    """Returns the area of a box that lies on taken ones or outside of the frame."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    return sum(_intersection(box, other) for other in taken) + area - _intersection(box, frame)


def _intersection(first: Box, second: Box) -> float:
    """Returns the area that two boxes share."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(0.0, width) * max(0.0, height)
