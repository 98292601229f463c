"""Matplotlib without a screen: figures to PNG, colors, values over a photo, values of words."""

import io
import textwrap
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tpr_jax.report.png import INK, MUTED, PAPER

DPI = 110
HEAT = "viridis"
# Told apart by most who are color-blind; more than these are taken from a circle of hues.
FEW = ("#4477aa", "#ee6677", "#228833", "#ddaa33", "#66ccee", "#aa3377", "#ee7733", "#332288")
WORDS_A_ROW = 24


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure; sizes in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A word in a script that the font lacks shows boxes; the page beside has it in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def colors(count: int) -> list:
    """So many colors, RGB in 0..1."""
    if count <= len(FEW):
        return [tuple(int(name[i : i + 2], 16) / 255 for i in (1, 3, 5)) for name in FEW[:count]]
    return [colormaps["hsv"](i / count)[:3] for i in range(count)]


def wrapped(text: str, width: int = 110, lines: int = 2) -> str:
    """A sentence in few lines."""
    found = textwrap.wrap(" ".join(text.split()), width) or [""]
    return "\n".join(found if len(found) <= lines else [*found[: lines - 1], found[lines - 1][:-2] + " …"])


def heading(axes: Axes, text: str, size: float = 9, color: str = INK) -> None:
    # A dollar sign would otherwise start a formula.
    axes.set_title(text, size=size, color=color, parse_math=False, pad=4)


def gray(photo: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
    """The photo without its colors and a little paler, as a ground for other colors; 0..1."""
    level = photo.astype(np.float64) @ (0.299, 0.587, 0.114) / 255
    return np.repeat(0.15 + 0.85 * level[..., None], 3, axis=2)


def over(
    photo: UInt8[np.ndarray, "h w 3"], patches: Float[np.ndarray, "gh gw 3"], strength: float = 0.62
) -> Float[np.ndarray, "h w 3"]:
    """The photo in gray with each patch tinted in its color (RGB in 0..1)."""
    height, width = photo.shape[:2]
    rows, columns = patches.shape[:2]
    tint = np.repeat(np.repeat(patches, height // rows, axis=0), width // columns, axis=1)
    return (1 - strength) * gray(photo) + strength * tint


def heat(values: Float[np.ndarray, "gh gw"], low: float, high: float) -> Float[np.ndarray, "gh gw 3"]:
    """Colors of values from `low` (dark) to `high` (yellow)."""
    return colormaps[HEAT]((values - low) / ((high - low) or 1.0))[..., :3]


def picture(axes: Axes, pixels) -> None:
    axes.imshow(pixels, interpolation="nearest")
    bare(axes)


def bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def word_rows(labels: Sequence[str]) -> list[tuple[int, int]]:
    """(first, end) of the tokens in each row of words, as equal as can be."""
    rows = -(-len(labels) // WORDS_A_ROW)
    ends = [round(i * len(labels) / rows) for i in range(rows + 1)]
    return list(zip(ends[:-1], ends[1:], strict=True))


def word_axes(
    figure: Figure, labels: Sequence[str], blocks: Sequence[int], top: float, bottom: float = 0.0
) -> list[Axes]:
    """Axes for each row of words, a cell a token (across, from 0) and block (down, from 0).

    `top` and `bottom` are how many inches of the figure are taken above and below.
    """
    width, height = figure.get_size_inches()
    rows = word_rows(labels)
    step = (height - top - bottom) / len(rows)
    cell = (width - 1.2) / max(14, *(end - first for first, end in rows))
    made = []
    for i, (first, end) in enumerate(rows):
        tall = step - 0.95
        box = (0.8, height - top - i * step - 0.85 - tall, cell * (end - first), tall)
        axes = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
        axes.set(xlim=(first - 0.5, end - 0.5), ylim=(len(blocks) - 0.5, -0.5))
        axes.xaxis.tick_top()
        axes.set_xticks(range(first, end))
        names = axes.set_xticklabels(labels[first:end], rotation=40, ha="left", rotation_mode="anchor")
        for name in names:
            name.set(parse_math=False, size=9, color=INK)
        axes.set_yticks(range(len(blocks)), [f"block {block + 1}" for block in blocks], size=8, color=MUTED)
        axes.tick_params(length=0, pad=3)
        for spine in axes.spines.values():
            spine.set_visible(False)
        made.append(axes)
    return made


def words_height(labels: Sequence[str], blocks: Sequence[int]) -> float:
    """Inches that `word_axes` wants below its top."""
    return len(word_rows(labels)) * (0.95 + 0.3 * len(blocks))
