"""compare.png: R@1 against the number of trained parameters, a panel for each table."""

import io
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tpr_jax.compare.table import tables
from tpr_jax.report.style import BLUE, DPI, GREEN, INK, MUTED, PAPER, RULE

PANEL = (10.5, 6.6)  # inches
# Where a name may stand, in points (1/72 inch) from its own: (right, up, alignment), the better places first.
PLACES = [(12, 0, "left"), (-12, 0, "right")] + [
    (x, sign * y, side)
    for y in (14, 26, 38, 50)
    for sign in (1, -1)
    for x, side in ((12, "left"), (-12, "right"), (0, "center"))
]
PLACES_ON_LINE = [(6, 9, "left"), (6, -11, "left")]


def picture(rows: Sequence[dict]) -> bytes:
    """PNG of rows as `compare_table.summarize` gives them; those without any finished run are left out."""
    buffer = io.BytesIO()
    draw(rows).savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def draw(rows: Sequence[dict]) -> Figure:
    """The same as a figure."""
    panels = tables(rows)
    size = (PANEL[0] * len(panels), PANEL[1])
    figure = Figure(figsize=size, dpi=DPI, facecolor=PAPER, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.25, h_pad=0.2)
    FigureCanvasAgg(figure)
    drawn = []
    for axes, (title, part) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        done = [row for row in part if row["R1"] is not None]
        _draw(axes, title, done)
        drawn.append((axes, done))
    figure.draw_without_rendering()  # now the axes have their places, on which those of the names depend
    for axes, done in drawn:
        _name(axes, done)
    return figure


def _draw(axes, title: str, rows: list[dict]) -> None:
    axes.set_title(f"{title}, R@1, %", loc="left", size=15, weight="bold", color=INK, pad=14)
    axes.set_xlabel("trained parameters (bars: standard deviation over the seeds)", size=11.5, color=MUTED)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    if not rows:
        axes.text(
            0.5, 0.5, "no run has finished", transform=axes.transAxes, ha="center", color=MUTED, size=12
        )
        axes.set(xticks=[], yticks=[])
        return
    axes.set_xscale("log")
    # Before anything is drawn: matplotlib warns of a single point, which has no extent of its own.
    sizes = [row["trainable_params"] for row in rows if row["trainable_params"]] or [1000]
    axes.set_xlim(min(sizes) / 4, max(sizes) * 4)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.xaxis.set_minor_formatter(lambda x, _: "")
    axes.tick_params(which="both", colors=MUTED, labelsize=11, length=0, pad=6)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    for row in rows:
        mean, deviation = row["R1"]
        if row["trainable_params"]:
            style = {"color": BLUE, "marker": "o", "markersize": 8, "capsize": 5 if deviation else 0}
            axes.errorbar(row["trainable_params"], mean, yerr=deviation or 0.0, **style)
        else:  # which has no place on a logarithmic axis
            axes.axhline(mean, color=GREEN, linestyle="--", linewidth=1.8)
    low, high = min(_ends(row)[0] for row in rows), max(_ends(row)[1] for row in rows)
    room = 0.12 * (high - low) + 0.5
    axes.set_ylim(max(0, low - room), high + room)


def _ends(row: dict) -> tuple[float, float]:
    mean, deviation = row["R1"]
    return mean - (deviation or 0), mean + (deviation or 0)


def _name(axes, rows: list[dict]) -> None:
    """Writes each name beside its point, where it covers the least of other names and points."""
    renderer = axes.figure.canvas.get_renderer()
    taken = []
    for row in rows:
        if row["trainable_params"]:
            (x, low), (_, high) = axes.transData.transform([(row["trainable_params"], y) for y in _ends(row)])
            taken.append((x - 7, low - 7, x + 7, high + 7))
    for row in sorted(rows, key=lambda row: bool(row["trainable_params"])):
        on_line = not row["trainable_params"]
        at = (axes.get_xlim()[0] if on_line else row["trainable_params"], row["R1"][0])
        label = axes.annotate(row["name"], at, textcoords="offset points", xytext=(0, 0), va="center")
        label.set(size=11.5, color=GREEN if on_line else INK, parse_math=False)

        def covered(place, label=label):
            return _covered(_put(label, place, renderer), taken, axes.bbox.extents)

        best = min(PLACES_ON_LINE if on_line else PLACES, key=covered)
        taken.append(_put(label, best, renderer))


def _put(label, place, renderer):
    """Moves a name; (left, bottom, right, top) of where it then is, in pixels."""
    right, up, side = place
    label.set(position=(right, up), ha=side)
    return label.get_window_extent(renderer).extents


def _covered(box, taken, frame) -> float:
    """The area of a box that lies on taken ones, or outside of the frame."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    return sum(_shared(box, other) for other in taken) + area - _shared(box, frame)


def _shared(one, other) -> float:
    """The area that two boxes (left, bottom, right, top) share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
