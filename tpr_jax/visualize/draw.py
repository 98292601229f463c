"""Matplotlib helpers: figures to PNG, colors, values over an image, values of words."""

import io
import itertools
import textwrap
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tpr_jax.report.style import INK, MUTED, PAPER

DPI = 110
HEAT = "viridis"
# A palette for color-blind readers; more colors than these are taken from a hue circle.
PALETTE = ("#4477aa", "#ee6677", "#228833", "#ddaa33", "#66ccee", "#aa3377", "#ee7733", "#332288")
TOKENS_PER_ROW = 24


def new_figure(width: float, height: float) -> Figure:
    """Creates an empty white figure; sizes are in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Figure) -> bytes:
    """Renders a figure as a PNG."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A word in a script that the font lacks shows boxes; the page shows it correctly.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def palette(count: int) -> list:
    """Returns `count` colors, RGB in [0, 1]."""
    if count <= len(PALETTE):
        return [tuple(int(name[i : i + 2], 16) / 255 for i in (1, 3, 5)) for name in PALETTE[:count]]
    return [colormaps["hsv"](i / count)[:3] for i in range(count)]


def wrap_text(text: str, width: int = 110, lines: int = 2) -> str:
    """Wraps a sentence and truncates it to `lines` lines."""
    wrapped = textwrap.wrap(" ".join(text.split()), width) or [""]
    if len(wrapped) > lines:
        wrapped = [*wrapped[: lines - 1], wrapped[lines - 1][:-2] + " …"]
    return "\n".join(wrapped)


def set_heading(axes: Axes, text: str, size: float = 9.0, color: str = INK) -> None:
    """Sets the title of axes; a dollar sign does not start a formula."""
    axes.set_title(text, size=size, color=color, parse_math=False, pad=4)


def to_gray(image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
    """Converts an image to pale gray in [0, 1], as a background for colors."""
    level = image.astype(np.float64) @ (0.299, 0.587, 0.114) / 255
    return np.repeat(0.15 + 0.85 * level[..., None], 3, axis=2)


def tint_patches(
    image: UInt8[np.ndarray, "h w 3"], patches: Float[np.ndarray, "gh gw 3"], strength: float = 0.62
) -> Float[np.ndarray, "h w 3"]:
    """Returns the image in gray with each patch tinted in its color (RGB in [0, 1])."""
    height, width = image.shape[:2]
    rows, columns = patches.shape[:2]
    tint = patches.repeat(height // rows, axis=0).repeat(width // columns, axis=1)
    return (1 - strength) * to_gray(image) + strength * tint


def heat_colors(values: Float[np.ndarray, "gh gw"], low: float, high: float) -> Float[np.ndarray, "gh gw 3"]:
    """Maps values to colors, from `low` (dark) to `high` (yellow)."""
    return colormaps[HEAT]((values - low) / ((high - low) or 1.0))[..., :3]


def show_image(axes: Axes, pixels) -> None:
    """Shows an image without ticks and frame."""
    axes.imshow(pixels, interpolation="nearest")
    hide_axes(axes)


def hide_axes(axes: Axes) -> None:
    """Hides the ticks and the frame."""
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def word_rows(labels: Sequence[str]) -> list[tuple[int, int]]:
    """Splits the tokens into rows of nearly equal length; returns (start, end) of each."""
    rows = -(-len(labels) // TOKENS_PER_ROW)
    return list(itertools.pairwise(round(i * len(labels) / rows) for i in range(rows + 1)))


def word_axes(
    figure: Figure, labels: Sequence[str], blocks: Sequence[int], top: float, bottom: float = 0.0
) -> list[Axes]:
    """Creates axes for each row of tokens, with a cell for each token (x) and block (y).

    `top` and `bottom` are the margins above and below, in inches.
    """
    width, height = figure.get_size_inches()
    rows = word_rows(labels)
    step = (height - top - bottom) / len(rows)
    cell = (width - 1.2) / max(14, *(end - first for first, end in rows))
    all_axes = []
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
        all_axes.append(axes)
    return all_axes


def words_height(labels: Sequence[str], blocks: Sequence[int]) -> float:
    """Returns the inches that `word_axes` needs below its top."""
    return len(word_rows(labels)) * (0.95 + 0.3 * len(blocks))
