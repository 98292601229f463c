"""docs/growth.svg: what `bench_growth` measured, seconds over size on logarithmic axes."""

import io

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from tpr_jax.bench.growth_table import KINDS, UPPER, growth, short, timed
from tpr_jax.bench.worker import median_seconds
from tpr_jax.report.style import AMBER, BLUE, INK, MUTED, PAPER, RULE

PANELS = {
    "DM-Adapter's step": ("batch",),
    "ranking and exact search": ("ranking", "search"),
    "the same, 2 experts chosen": ("experts",),
    "UP-Person's step": ("prefix",),
    "DM-Adapter's, one batch for all": ("devices",),
}


def picture(report: dict) -> str:
    """SVG, the same text each time with the same matplotlib."""
    settings = {"svg.hashsalt": "tpr_jax", "font.family": "DejaVu Sans", "font.size": 8}
    buffer = io.StringIO()
    with matplotlib.rc_context(settings):
        draw(report).savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def draw(report: dict) -> Figure:
    """The same as a figure: five panels, and what the lines mean in the place of a sixth."""
    figure = Figure(figsize=(9.0, 6.0), facecolor=PAPER, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.1)
    FigureCanvasSVG(figure)
    *panels, key = figure.subplots(2, 3).flat
    for axes, (title, names) in zip(panels, PANELS.items(), strict=True):
        axes.set_title(title, loc="left", size=9, weight="bold", color=INK)
        axes.set_box_aspect(1)
        axes.set_xlabel(KINDS[names[0]].size, color=MUTED)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(RULE)
        drawn = {name: timed(report["parts"].get(name, [])) for name in names}
        _series(axes, {name: rows for name, rows in drawn.items() if rows})
    key.axis("off")
    key.plot([], [], color=BLUE, marker="o", markersize=4, label="seconds, medians of the turns")
    key.plot([], [], color=AMBER, linestyle="--", label="as it has to grow")
    text = "Both axes are of the same scale:\ntwice the seconds for twice the size\nrises at 45 degrees."
    key.legend(loc="upper left", frameon=False, labelcolor=INK, title=text, alignment="left").get_title().set(
        color=MUTED, linespacing=1.4
    )
    return figure


def _series(axes: Axes, drawn: dict[str, list[dict]]) -> None:
    """The points of each series, and a line of the slope expected through the middle of the upper ones."""
    if not drawn:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=MUTED)
        axes.set(xticks=[], yticks=[])
        return
    ends, largest = [], max(row[KINDS[name].key] for name, rows in drawn.items() for row in rows)
    axes.set(xscale="log", yscale="log")
    for name, rows in drawn.items():
        sizes = np.array([row[KINDS[name].key] for row in rows], float)
        seconds = np.array([median_seconds(row) for row in rows])
        axes.plot(sizes, seconds, color=BLUE, marker="o", markersize=4, linewidth=1.4)
        words = f"{name} " * (len(drawn) > 1)
        if grown := growth(name, rows):
            x, y = sizes[-UPPER:], seconds[-UPPER:]
            line = np.exp(np.log(y).mean()) * (x / np.exp(np.log(x).mean())) ** grown.expected
            axes.plot(x, line, color=AMBER, linestyle="--", linewidth=1.6, zorder=3)
            words += f"{grown.found:.2f}, expected {grown.expected:.2f}"
        axes.annotate(
            words,
            (sizes[-1], seconds[-1]),
            (0, 9),
            textcoords="offset points",
            ha="right" if sizes[-1] == largest else "center",  # within the panel either way
            color=INK,
            size=7.5,
        )
        ends += [(sizes[0], seconds.min()), (sizes[-1], seconds.max())]
    low, high = np.log(ends).min(0), np.log(ends).max(0)
    # Of the same scale: a slope looks what it is, and noise in what stays the same does not look large.
    middles, half = (low + high) / 2, 0.62 * (high - low).max() + 0.05
    (left, right), (bottom, top) = (np.exp([at - half, at + half]) for at in middles)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    _ticks(axes, sorted({int(row[KINDS[name].key]) for name, rows in drawn.items() for row in rows}))


def _ticks(axes: Axes, sizes: list[int]) -> None:
    """Names of the sizes below, every other one where there are many; 1, 2 and 5 at the left."""
    axes.xaxis.set_major_locator(FixedLocator(sizes[:: 2 if len(sizes) > 5 else 1]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short(round(x))))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g} s"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.tick_params(colors=MUTED, labelsize=7.5, length=0)
    axes.grid(color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
