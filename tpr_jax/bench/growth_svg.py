"""Draws docs/growth.svg: the report of `bench.growth`, seconds over size on logarithmic axes."""

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from tpr_jax.bench.growth_table import LARGEST, SERIES, fit_growth, format_size, timed_rows
from tpr_jax.bench.worker import median_seconds
from tpr_jax.report.style import AMBER, BLUE, INK, MUTED, PAPER, RULE

PANELS = {
    "DM-Adapter train step": ("batch",),
    "ranking and exact search": ("ranking", "search"),
    "DM-Adapter train step, top 2": ("experts",),
    "UP-Person train step": ("prefix",),
    "DM-Adapter, same global batch": ("devices",),
}


def render_svg(report: dict) -> str:
    """Renders the plot as SVG, deterministically for one version of matplotlib."""
    settings: dict[Any, Any] = {"svg.hashsalt": "tpr_jax", "font.family": "DejaVu Sans", "font.size": 8}
    buffer = io.StringIO()
    with matplotlib.rc_context(settings):
        draw(report).savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def draw(report: dict) -> Figure:
    """Draws five panels, and the legend in place of a sixth."""
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.1)
    figure = Figure(figsize=(9.0, 6.0), facecolor=PAPER, layout=layout)
    FigureCanvasSVG(figure)
    *panels, legend_axes = figure.subplots(2, 3).flat
    for axes, (title, names) in zip(panels, PANELS.items(), strict=True):
        axes.set_title(title, loc="left", size=9, weight="bold", color=INK)
        axes.set_box_aspect(1)
        axes.set_xlabel(SERIES[names[0]].axis, color=MUTED)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(RULE)
        series = {name: timed_rows(report["parts"].get(name, [])) for name in names}
        _draw_panel(axes, {name: rows for name, rows in series.items() if rows})
    legend_axes.axis("off")
    legend_axes.plot([], [], color=BLUE, marker="o", markersize=4, label="seconds, median over turns")
    legend_axes.plot([], [], color=AMBER, linestyle="--", label="expected slope")
    text = "Both axes have the same scale:\nseconds that double with the size\nrise at 45 degrees."
    legend = legend_axes.legend(loc="upper left", frameon=False, labelcolor=INK, title=text, alignment="left")
    legend.get_title().set(color=MUTED, linespacing=1.4)
    return figure


def _draw_panel(axes: Axes, series: dict[str, list[dict]]) -> None:
    """Draws the points of each series, and a line of the expected slope through the largest sizes."""
    if not series:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=MUTED)
        axes.set(xticks=[], yticks=[])
        return
    all_sizes = sorted({int(row[SERIES[name].size_key]) for name, rows in series.items() for row in rows})
    corners = []
    axes.set(xscale="log", yscale="log")
    for name, rows in series.items():
        sizes = np.array([row[SERIES[name].size_key] for row in rows], float)
        seconds = np.array([median_seconds(row) for row in rows])
        axes.plot(sizes, seconds, color=BLUE, marker="o", markersize=4, linewidth=1.4)
        label = f"{name} " * (len(series) > 1)
        if fit := fit_growth(name, rows):
            x, y = sizes[-LARGEST:], seconds[-LARGEST:]
            line = np.exp(np.log(y).mean()) * (x / np.exp(np.log(x).mean())) ** fit.expected
            axes.plot(x, line, color=AMBER, linestyle="--", linewidth=1.6, zorder=3)
            label += f"{fit.measured:.2f}, expected {fit.expected:.2f}"
        axes.annotate(
            label,
            (sizes[-1], seconds[-1]),
            (0, 9),
            textcoords="offset points",
            ha="right" if sizes[-1] == all_sizes[-1] else "center",  # keeps the label within the panel
            color=INK,
            size=7.5,
        )
        corners += [(sizes[0], seconds.min()), (sizes[-1], seconds.max())]
    low, high = np.log(corners).min(0), np.log(corners).max(0)
    # Equal scales on both axes keep slopes comparable and the noise of flat series small.
    half = 0.62 * (high - low).max() + 0.05
    (left, right), (bottom, top) = (np.exp([mid - half, mid + half]) for mid in (low + high) / 2)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    _set_ticks(axes, all_sizes)


def _set_ticks(axes: Axes, sizes: list[int]) -> None:
    """Labels the sizes on the x axis, every other one if there are many, and 1, 2 and 5 on the y axis."""
    axes.xaxis.set_major_locator(FixedLocator(sizes[:: 2 if len(sizes) > 5 else 1]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: format_size(round(x))))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g} s"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.tick_params(colors=MUTED, labelsize=7.5, length=0)
    axes.grid(color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
