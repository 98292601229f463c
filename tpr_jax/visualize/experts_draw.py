"""Draws the experts that a mixture routes patches and words to, for `experts`."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.patches import Patch, Rectangle

from tpr_jax.report.style import INK, MUTED
from tpr_jax.visualize import draw

TOWERS = {"visual": "Photos", "text": "Sentences"}


def top_two(
    weights: Float[np.ndarray, "*b e"],
) -> tuple[Int[np.ndarray, "*b"], Int[np.ndarray, "*b"], Float[np.ndarray, "*b"], Float[np.ndarray, "*b"]]:
    """Returns the first expert, the second expert, and the weights of both.

    With a single expert the second is the same, with weight 0.
    """
    order = np.argsort(-weights, axis=-1, kind="stable")
    first, second = order[..., 0], order[..., min(1, weights.shape[-1] - 1)]
    first_weight, second_weight = (
        np.take_along_axis(weights, index[..., None], -1)[..., 0] for index in (first, second)
    )
    return first, second, first_weight, second_weight * (second != first)


def draw_loads(loads: dict) -> bytes:
    """Draws a stacked bar of the experts' shares for each block; mixtures are side by side."""
    blocks = max(len(shares) for shares in loads.values())
    figure = draw.new_figure(1.0 + 5.2 * len(loads), 1.2 + 0.38 * blocks)
    width, height = figure.get_size_inches()
    most = max(len(share) for shares in loads.values() for share in shares.values())
    for i, ((tower, slot), shares) in enumerate(loads.items()):
        cell_height = 0.38 * len(shares)
        box = ((0.8 + 5.3 * i) / width, 1 - (0.5 + cell_height) / height, 4.6 / width, cell_height / height)
        axes = figure.add_axes(box, xlim=(0, 1), ylim=(len(shares) - 0.5, -0.5))
        uniform = f"uniform: {100 / most:.0f} % each"
        axes.set_title(f"{TOWERS[tower]} ({slot})", size=11, weight="bold", color=INK, loc="left")
        axes.set_title(uniform, size=9, color=MUTED, loc="right")
        for row, share in enumerate(shares.values()):
            left = 0.0
            for part, color in zip(share, draw.palette(len(share)), strict=True):
                axes.barh(row, part, left=left, color=color, edgecolor="white", height=0.8)
                if part >= 0.06:
                    axes.text(
                        left + part / 2,
                        row,
                        f"{100 * part:.0f} %",
                        ha="center",
                        va="center",
                        color=text_color(color),
                        size=8.5,
                    )
                left += part
        axes.set_yticks(range(len(shares)), [f"block {block + 1}" for block in shares], color=MUTED, size=9)
        axes.set_xticks([])
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    _legend(figure, most)
    return draw.to_png(figure)


def draw_image(image: np.ndarray, weights: dict[int, Float[np.ndarray, "e gh gw"]]) -> bytes:
    """Draws the image, then a column for each block: first expert, second expert, weight of the first."""
    count = len(next(iter(weights.values())))
    colors = np.array(draw.palette(count))
    most = max(int(np.count_nonzero(w > 0, axis=0).max()) for w in weights.values())  # experts per patch
    two = most > 1
    cell_width = 1.05
    cell_height = cell_width * image.shape[0] / image.shape[1]
    lines = 3 if two else 1
    width, height = 1.1 + (len(weights) + 1) * (cell_width + 0.1), 1.0 + lines * (cell_height + 0.15)
    figure = draw.new_figure(width, height)

    def cell(column: int, line: int):
        left, top = 1.0 + column * (cell_width + 0.1), 0.45 + line * (cell_height + 0.15)
        box = (left / width, 1 - (top + cell_height) / height, cell_width / width, cell_height / height)
        return figure.add_axes(box)

    axes = cell(0, 0)
    draw.show_image(axes, image)
    draw.set_heading(axes, "photo")
    for column, (block, values) in enumerate(weights.items(), 1):
        first, second, first_weight, second_weight = top_two(np.moveaxis(values, 0, -1))
        for line, (index, weight) in enumerate(
            ((first, first_weight), (second, second_weight))[: 2 if two else 1]
        ):
            axes = cell(column, line)
            draw.show_image(axes, draw.tint_patches(image, colors[index]))
            _numbers(axes, index, image, weight, colors)
            if line == 0:
                draw.set_heading(axes, f"block {block + 1}")
        if two:
            axes = cell(column, 2)
            draw.show_image(
                axes, draw.tint_patches(image, draw.heat_colors(first_weight, 1 / most, 1.0), 0.8)
            )
    for line, name in enumerate(("first\nexpert", "second\nexpert", "weight of\nthe first")[:lines]):
        y = 1 - (0.45 + line * (cell_height + 0.15) + cell_height / 2) / height
        figure.text(0.5 / width, y, name, ha="center", va="center", size=9, color=INK)
    if two:
        _bar(figure, cell(0, 2), f"{1 / most:.2g}: uniform", "1: only the first")
    _legend(figure, count)
    return draw.to_png(figure)


def _numbers(axes, index, image, weight, colors) -> None:
    """Writes the experts' numbers on their patches if there is room."""
    rows, columns = index.shape
    if columns > 8:
        return
    step = image.shape[0] / rows, image.shape[1] / columns
    for y in range(rows):
        for x in range(columns):
            if weight[y, x] > 0:
                at = (x + 0.5) * step[1] - 0.5, (y + 0.5) * step[0] - 0.5
                ink = text_color(colors[index[y, x]])
                text = {"ha": "center", "va": "center", "size": 6.5, "color": ink}
                axes.text(*at, str(index[y, x] + 1), **text)


def _bar(figure, axes, low: str, high: str) -> None:
    """Draws a vertical color bar in the place of an image."""
    axes.axis("off")
    box = axes.get_position()
    scale = figure.add_axes(
        (box.x0 + 0.1 * box.width, box.y0 + 0.1 * box.height, 0.16 * box.width, 0.8 * box.height)
    )
    scale.imshow(draw.heat_colors(np.linspace(1, 0, 64)[:, None], 0, 1), aspect="auto")
    draw.hide_axes(scale)
    style = {"size": 7.5, "color": MUTED, "transform": axes.transAxes, "ha": "left"}
    axes.text(0.34, 0.9, high.replace(": ", ":\n"), va="top", **style)
    axes.text(0.34, 0.1, low.replace(": ", ":\n"), va="bottom", **style)


def draw_text(text: str, names: Sequence[str], weights: dict[int, Float[np.ndarray, "n e"]]) -> bytes:
    """Draws a cell for each token and block, divided between its two experts by their weights."""
    count = next(iter(weights.values())).shape[-1]
    colors = draw.palette(count)
    top = 0.5
    width, height = 12.0, top + draw.words_height(names, list(weights)) + 0.35
    figure = draw.new_figure(width, height)
    figure.text(
        0.8 / width, 1 - 0.3 / height, draw.wrap_text(text, 130, 1), size=11, color=INK, parse_math=False
    )
    all_axes = draw.word_axes(figure, names, list(weights), top, bottom=0.35)
    for axes, (start, end) in zip(all_axes, draw.word_rows(names), strict=True):
        for row, values in enumerate(weights.values()):
            first, second, first_weight, second_weight = top_two(values)
            for token in range(start, end):
                share = second_weight[token] / max(first_weight[token] + second_weight[token], 1e-12)
                left, upper = token - 0.47, row - 0.46
                first_color, second_color = colors[first[token]], colors[second[token]]
                axes.add_patch(
                    Rectangle((left, upper), 0.94, 0.92 * (1 - share), color=first_color, linewidth=0)
                )
                low = upper + 0.92 * (1 - share)
                axes.add_patch(Rectangle((left, low), 0.94, 0.92 * share, color=second_color, linewidth=0))
                axes.text(
                    token,
                    upper + 0.46 * (1 - share),
                    str(first[token] + 1),
                    size=7.5,
                    ha="center",
                    va="center",
                    color=text_color(first_color),
                )
    _legend(figure, count)
    return draw.to_png(figure)


def text_color(color) -> str:
    """Returns black or white, whichever has more contrast on a color."""
    return "white" if np.dot(color, (0.299, 0.587, 0.114)) < 0.62 else INK


def _legend(figure, count: int) -> None:
    if count > 16:
        return
    handles = [Patch(color=color, label=f"expert {i + 1}") for i, color in enumerate(draw.palette(count))]
    figure.legend(handles=handles, loc="lower center", ncols=min(count, 8), frameon=False, fontsize=9)
