"""The two charts of a report, by matplotlib: axes of report.png, and SVG for report.html."""

import io
import re
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from tpr_jax.report.facts import Points, moving_average
from tpr_jax.report.style import AMBER, BLUE, CSS_VARIABLES, GREEN, INK, MUTED, RULE

SVG_SIZE = (440, 280)  # in points; the page scales it
SVG_RC_PARAMS: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "tpr_jax", "path.simplify": False}
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # so that the same run gives the same file


def style_axes(axes: Axes) -> None:
    """Draws only a left and a bottom spine and horizontal grid lines, in the report's colors."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(colors=MUTED, labelsize=11, length=0, pad=6)
    axes.grid(axis="y", color=RULE, linewidth=0.8, clip_on=False)
    axes.set_axisbelow(True)


def draw_loss(axes: Axes, points: Points) -> None:
    """Draws the loss of each logged step, thin, and its moving average."""
    axes.set_title("Training loss", loc="left", size=14, weight="bold", color=INK, pad=12)
    axes.set_xlabel("step", size=11, color=MUTED)
    if not points:
        _say_nothing_logged(axes)
        return
    smooth = moving_average(points)
    steps, losses = zip(*points, strict=True)
    is_one_step = min(steps) == max(steps)
    marker = "o" if is_one_step else None  # a line needs two steps
    axes.plot(*zip(*points, strict=True), color=BLUE, alpha=0.25, linewidth=1, clip_on=False)
    axes.plot(*zip(*smooth, strict=True), color=BLUE, linewidth=2.2, marker=marker, clip_on=False)
    _count_in_whole_numbers(axes)
    if is_one_step:
        axes.set_xticks([steps[0]])
    # Around losses that hardly differ, ticks would need many digits.
    middle, half = (min(losses) + max(losses)) / 2, (max(losses) - min(losses)) / 2
    if half < (least := max(0.05, 0.05 * abs(middle))):
        axes.set_ylim(middle - least, middle + least)


def _count_in_whole_numbers(axes: Axes) -> None:
    """Puts ticks only at whole steps or epochs, written in full."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def draw_recall(axes: Axes, curves: dict[str, Points]) -> None:
    """Draws R@1 by epoch, a curve for each direction."""
    axes.set_title("R@1 by epoch, %", loc="left", size=14, weight="bold", color=INK, pad=12)
    axes.set_xlabel("epoch", size=11, color=MUTED)
    if not curves:
        _say_nothing_logged(axes)
        return
    for color, (label, points) in zip((GREEN, AMBER), curves.items(), strict=False):
        axes.plot(
            *zip(*points, strict=True),
            label=label,
            color=color,
            linewidth=2.2,
            marker="o",
            markersize=4.5,
            clip_on=False,
        )
    _count_in_whole_numbers(axes)
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right", frameon=False, fontsize=11, labelcolor=INK)


def _say_nothing_logged(axes: Axes) -> None:
    axes.text(0.5, 0.5, "nothing was logged", transform=axes.transAxes, ha="center", color=MUTED, size=12)
    axes.set(xticks=[], yticks=[])


def loss_svg(points: Points) -> str:
    """Returns the loss chart as an SVG element."""
    figure, axes = _new_svg_figure()
    draw_loss(axes, points)
    return _to_svg(figure, "Training loss")


def recall_svg(curves: dict[str, Points]) -> str:
    """Returns the recall chart as an SVG element; its points show their value on hover."""
    figure, axes = _new_svg_figure()
    draw_recall(axes, curves)
    for i, line in enumerate(axes.lines):
        line.set_gid(f"recall_{i}")
    svg = _to_svg(figure, "R@1 by epoch, %")
    for i, points in enumerate(curves.values()):
        svg = _add_tooltips(svg, f"recall_{i}", [f"epoch {x:g}: {y:.2f} %" for x, y in points])
    return svg


def _new_svg_figure() -> tuple[Figure, Axes]:
    width, height = SVG_SIZE
    figure = Figure(figsize=(width / 72, height / 72))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((36 / width, 40 / height, (width - 44) / width, (height - 72) / height))
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    style_axes(axes)
    return figure, axes


def _to_svg(figure: Figure, label: str) -> str:
    """Renders a figure as an element to put inside a page: without XML header, in colors of the page."""
    buffer = io.StringIO()
    with mpl.rc_context(SVG_RC_PARAMS):
        figure.savefig(buffer, format="svg", metadata=NO_METADATA)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
    svg = re.sub(r"(<svg[^>]*?) width=\"[^\"]*\" height=\"[^\"]*\"", r"\1", svg, count=1)
    for color, variable in CSS_VARIABLES.items():
        svg = svg.replace(color, variable)
    return svg


def _add_tooltips(svg: str, group: str, texts: list[str]) -> str:
    """Gives each marker of a line, a `<use>` element in the line's group, a `<title>`."""
    start = svg.index(f'<g id="{group}">')
    end = svg.index("<g id=", start + 1)
    titles = iter(texts)
    titled = re.sub(
        r"<use ([^>]*)/>",
        lambda match: f"<use {match[1]}><title>{escape(next(titles))}</title></use>",
        svg[start:end],
    )
    return svg[:start] + titled + svg[end:]
