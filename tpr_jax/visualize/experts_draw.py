"""Pictures of where a mixture sends patches and words; `experts` says what is drawn."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.patches import Patch, Rectangle

from tpr_jax.report.png import INK, MUTED
from tpr_jax.visualize import draw

TOWERS = {"visual": "Photos", "text": "Sentences"}


def first_two(
    weights: Float[np.ndarray, "*b e"],
) -> tuple[Int[np.ndarray, "*b"], Int[np.ndarray, "*b"], Float[np.ndarray, "*b"], Float[np.ndarray, "*b"]]:
    """(first expert, second expert, weight of the first, weight of the second); of one expert alone the
    second is itself, with weight 0."""
    order = np.argsort(-weights, axis=-1, kind="stable")
    first, second = order[..., 0], order[..., min(1, weights.shape[-1] - 1)]
    of = lambda index: np.take_along_axis(weights, index[..., None], -1)[..., 0]  # noqa: E731
    return first, second, of(first), of(second) * (second != first)


def loads_png(found: dict) -> bytes:
    """A bar a block, cut up by the experts' shares; beside each other the mixtures."""
    blocks = max(len(shares) for shares in found.values())
    figure = draw.new_figure(1.0 + 5.2 * len(found), 1.2 + 0.38 * blocks)
    width, height = figure.get_size_inches()
    most = max(len(share) for shares in found.values() for share in shares.values())
    for i, ((tower, slot), shares) in enumerate(found.items()):
        tall = 0.38 * len(shares)
        box = ((0.8 + 5.3 * i) / width, 1 - (0.5 + tall) / height, 4.6 / width, tall / height)
        axes = figure.add_axes(box, xlim=(0, 1), ylim=(len(shares) - 0.5, -0.5))
        alike = f"alike: {100 / most:.0f} % each"
        axes.set_title(f"{TOWERS[tower]} ({slot})", size=11, weight="bold", color=INK, loc="left")
        axes.set_title(alike, size=9, color=MUTED, loc="right")
        for row, share in enumerate(shares.values()):
            left = 0.0
            for part, color in zip(share, draw.colors(len(share)), strict=True):
                axes.barh(row, part, left=left, color=color, edgecolor="white", height=0.8)
                if part >= 0.06:
                    text = {"ha": "center", "va": "center", "color": ink_on(color), "size": 8.5}
                    axes.text(left + part / 2, row, f"{100 * part:.0f} %", **text)
                left += part
        axes.set_yticks(range(len(shares)), [f"block {block + 1}" for block in shares], color=MUTED, size=9)
        axes.set_xticks([])
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    _legend(figure, most)
    return draw.to_png(figure)


def photo_png(photo: np.ndarray, weights: dict[int, Float[np.ndarray, "e gh gw"]]) -> bytes:
    """The photo, then a column a block: first choice, second choice, weight of the first."""
    count = len(next(iter(weights.values())))
    colors = np.array(draw.colors(count))
    most = max(int((w > 0).sum(0).max()) for w in weights.values())  # experts that a patch is sent to
    two = most > 1
    wide = 1.05
    tall = wide * photo.shape[0] / photo.shape[1]
    lines = 3 if two else 1
    width, height = 1.1 + (len(weights) + 1) * (wide + 0.1), 1.0 + lines * (tall + 0.15)
    figure = draw.new_figure(width, height)

    def cell(column: int, line: int):
        left, top = 1.0 + column * (wide + 0.1), 0.45 + line * (tall + 0.15)
        box = (left / width, 1 - (top + tall) / height, wide / width, tall / height)
        return figure.add_axes(box)

    axes = cell(0, 0)
    draw.picture(axes, photo)
    draw.heading(axes, "photo")
    for column, (block, values) in enumerate(weights.items(), 1):
        first, second, by_first, by_second = first_two(np.moveaxis(values, 0, -1))
        for line, (index, weight) in enumerate(((first, by_first), (second, by_second))[: 2 if two else 1]):
            axes = cell(column, line)
            draw.picture(axes, draw.over(photo, colors[index]))
            _numbers(axes, index, photo, weight, colors)
            if line == 0:
                draw.heading(axes, f"block {block + 1}")
        if two:
            axes = cell(column, 2)
            draw.picture(axes, draw.over(photo, draw.heat(by_first, 1 / most, 1.0), 0.8))
    for line, name in enumerate(("first\nchoice", "second\nchoice", "weight of\nthe first")[:lines]):
        y = 1 - (0.45 + line * (tall + 0.15) + tall / 2) / height
        figure.text(0.5 / width, y, name, ha="center", va="center", size=9, color=INK)
    if two:
        _bar(figure, cell(0, 2), f"{1 / most:.2g}: all alike", "1: the first alone")
    _legend(figure, count)
    return draw.to_png(figure)


def _numbers(axes, index, photo, weight, colors) -> None:
    """The experts' numbers on their patches, where there is room."""
    rows, columns = index.shape
    if columns > 8:
        return
    step = photo.shape[0] / rows, photo.shape[1] / columns
    for y in range(rows):
        for x in range(columns):
            if weight[y, x] > 0:
                at = (x + 0.5) * step[1] - 0.5, (y + 0.5) * step[0] - 0.5
                ink = ink_on(colors[index[y, x]])
                text = {"ha": "center", "va": "center", "size": 6.5, "color": ink}
                axes.text(*at, str(index[y, x] + 1), **text)


def _bar(figure, axes, low: str, high: str) -> None:
    """The scale of the heat, upright, where a photo would be."""
    axes.axis("off")
    box = axes.get_position()
    scale = figure.add_axes(
        (box.x0 + 0.1 * box.width, box.y0 + 0.1 * box.height, 0.16 * box.width, 0.8 * box.height)
    )
    scale.imshow(draw.heat(np.linspace(1, 0, 64)[:, None], 0, 1), aspect="auto")
    draw.bare(scale)
    style = {"size": 7.5, "color": MUTED, "transform": axes.transAxes, "ha": "left"}
    axes.text(0.34, 0.9, high.replace(": ", ":\n"), va="top", **style)
    axes.text(0.34, 0.1, low.replace(": ", ":\n"), va="bottom", **style)


def words_png(text: str, names: Sequence[str], weights: dict[int, Float[np.ndarray, "n e"]]) -> bytes:
    """A cell a token and block, shared out between its first two experts by their weights."""
    count = next(iter(weights.values())).shape[-1]
    colors = draw.colors(count)
    top = 0.5
    width, height = 12.0, top + draw.words_height(names, list(weights)) + 0.35
    figure = draw.new_figure(width, height)
    figure.text(
        0.8 / width, 1 - 0.3 / height, draw.wrapped(text, 130, 1), size=11, color=INK, parse_math=False
    )
    made = draw.word_axes(figure, names, list(weights), top, bottom=0.35)
    for axes, (start, end) in zip(made, draw.word_rows(names), strict=True):
        for row, values in enumerate(weights.values()):
            first, second, by_first, by_second = first_two(values)
            for token in range(start, end):
                share = by_second[token] / max(by_first[token] + by_second[token], 1e-12)
                left, upper = token - 0.47, row - 0.46
                one, two = colors[first[token]], colors[second[token]]
                axes.add_patch(Rectangle((left, upper), 0.94, 0.92 * (1 - share), color=one, linewidth=0))
                low = upper + 0.92 * (1 - share)
                axes.add_patch(Rectangle((left, low), 0.94, 0.92 * share, color=two, linewidth=0))
                style = {"size": 7.5, "ha": "center", "va": "center", "color": ink_on(one)}
                axes.text(token, upper + 0.46 * (1 - share), str(first[token] + 1), **style)
    _legend(figure, count)
    return draw.to_png(figure)


def ink_on(color) -> str:
    """Black or white, whichever is read better on a color."""
    return "white" if np.dot(color, (0.299, 0.587, 0.114)) < 0.62 else INK


def _legend(figure, count: int) -> None:
    if count > 16:
        return
    handles = [Patch(color=color, label=f"expert {i + 1}") for i, color in enumerate(draw.colors(count))]
    figure.legend(handles=handles, loc="lower center", ncols=min(count, 8), frameon=False, fontsize=9)
