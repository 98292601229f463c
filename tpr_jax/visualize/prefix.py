"""How much of the attention of each patch and word goes to the learned prefix tokens."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from tpr_jax.errors import UserError
from tpr_jax.model import Model
from tpr_jax.models.petl_config import Prefix
from tpr_jax.report.png import INK, MUTED
from tpr_jax.visualize import draw
from tpr_jax.visualize.inputs import Shown, some
from tpr_jax.visualize.look import inside_photos, inside_texts, patches
from tpr_jax.visualize.page import Picture, figures, page
from tpr_jax.visualize.tokens import labels

TOWERS = {"visual": "Photos", "text": "Sentences"}


def check(model: Model) -> None:
    """Raises a UserError where the model has no prefix."""
    if not any(isinstance(part, Prefix) for part in (*model.method.vision, *model.method.text)):
        raise UserError(
            f"{model.source}: its method, {model.method.name}, has no prefix tokens: up_person and prefix "
            "have them, and a mixture of parts with 'prefix' among them"
        )


def gates(model: Model) -> dict[str, dict[int, float]]:
    """tower -> block -> the learned scalar of S-Prefix on the prefix' attention; 1 where there is none."""
    found: dict = {}
    for tower, blocks in model.variables["prefix"].items():
        leaves = {int(name.removeprefix("block_")): block["attn"]["prefix"] for name, block in blocks.items()}
        found[tower] = {block: float(leaves[block].get("gate", 1.0)) for block in sorted(leaves)}
    return found


def by_block(masses: dict[str, np.ndarray]) -> dict[int, np.ndarray]:
    """`visual/block_0` -> ... becomes 0 -> ..., in order."""
    found = {int(path.rpartition("_")[2]): value for path, value in masses.items()}
    return dict(sorted(found.items()))


def make(model: Model, shown: Shown, *, title: str, number: int) -> dict[str, bytes]:
    """prefix.html, and a PNG of the heads, of each photo and of each sentence."""
    check(model)
    photos, texts = some(shown, number)
    scalars, means, pictures = gates(model), {}, []
    if photos:
        batches = list(inside_photos(model, [shown.photos[row] for row in photos]))
        pixels = np.concatenate([rows for rows, _ in batches])
        if masses := _joined(batches):
            means["visual"] = {block: mass.mean((0, 2)) for block, mass in masses.items()}
            pictures += _photos(model, shown, photos, pixels, masses, scalars["visual"])
    if texts:
        sentences = [shown.texts[row] for row in texts]
        batches = list(inside_texts(model, sentences))
        ids, masses = np.concatenate([rows for rows, _ in batches]), _joined(batches)
        names = [labels(model.tokenizer, row, model.config, model.method.prompts) for row in ids]
        if masses:
            counted = [{b: mass[i, :, : len(n)] for b, mass in masses.items()} for i, n in enumerate(names)]
            means["text"] = {b: np.concatenate([c[b] for c in counted], axis=1).mean(1) for b in masses}
            pictures += _texts(sentences, names, counted)
    if not means:
        raise UserError(f"{model.source}: its prefix is in the text tower alone: give some --text")
    pictures.insert(0, _heads(means, scalars))
    part = next(p for p in (*model.method.vision, *model.method.text) if isinstance(p, Prefix))
    gated = part.gate is not None
    lead = [
        f"In each block {part.length} learned tokens, the prefix, stand among those that every token "
        "attends to. Attention mass is the share of a token's attention that the prefix gets: the sum of "
        f"the softmax over its {part.length} keys, from 0 % (it is not looked at) to 100 % (nothing else "
        "is).",
        "S-Prefix multiplies that attention by a learned scalar without making the sum 1 again; the "
        "program folds it into the prefix' values, which is the same. Effective weight is attention mass "
        "times that scalar, and may be above 1: the other tokens together have the weight 1 - mass."
        if gated
        else "This prefix has no scalar of its own (it is no S-Prefix): its effective weight is its "
        "attention mass.",
    ]
    html = page(title, lead, figures(pictures))
    return {"prefix.html": html.encode()} | {picture.file: picture.png for picture in pictures}


def _joined(batches: list[tuple[np.ndarray, dict]]) -> dict[int, Float[np.ndarray, "b h n"]]:
    paths = batches[0][1]["prefix"]
    return by_block({path: np.concatenate([found["prefix"][path] for _, found in batches]) for path in paths})


def _heads(means: dict, scalars: dict) -> Picture:
    note = (
        "Mean over all tokens of the photos (class token included) and of the sentences (up to the end of "
        "each) below. Left attention mass, right effective weight: mass times the block's scalar, which "
        "is written beside it."
    )
    return Picture(
        "prefix_heads.png",
        draw_heads(means, scalars),
        "By block and head",
        note,
        "Tables of blocks and heads",
    )


def draw_heads(means: dict[str, dict[int, Float[np.ndarray, " h"]]], scalars: dict) -> bytes:
    """Two tables a tower, a row a block and a column a head."""
    blocks = max(len(rows) for rows in means.values())
    heads = [len(next(iter(rows.values()))) for rows in means.values()]
    sizes = [max(0.5 * count, 1.9) for count in heads]
    width = sum(2 * size + 2.2 for size in sizes) + 0.1
    figure = draw.new_figure(width, 1.25 + 0.34 * blocks)
    height = figure.get_size_inches()[1]
    left = 0.8
    for (tower, rows), size, count in zip(means.items(), sizes, heads, strict=True):
        mass = np.stack(list(rows.values()))
        gate = np.array([scalars[tower][block] for block in rows])
        figure.text(left / width, 1 - 0.32 / height, TOWERS[tower], size=12, weight="bold", color=INK)
        for values, name in ((mass, "attention mass"), (mass * gate[:, None], "effective weight")):
            tall = 0.34 * len(rows)
            box = (left / width, 1 - (0.75 + tall) / height, size / width, tall / height)
            axes = figure.add_axes(box)
            axes.imshow(values, cmap=draw.HEAT, vmin=0, vmax=max(values.max(), 1e-6), aspect="auto")
            draw.heading(axes, name)
            is_mass = name == "attention mass"
            middle = values.max() / 2
            for (y, x), value in np.ndenumerate(values):
                text = f"{100 * value:.0f} %" if is_mass else f"{value:.2f}"
                style = {"color": "white" if value < 1.2 * middle else INK, "size": 7.5}
                axes.text(x, y, text, ha="center", va="center", **style)
            draw.bare(axes)
            side = [f"block {b + 1}" for b in rows] if is_mass else [f"× {g:.2f}" for g in gate]
            axes.set_yticks(range(len(rows)), side, size=8, color=MUTED)
            axes.set_xticks(range(count), [str(i + 1) for i in range(count)], size=8, color=MUTED)
            axes.set_xlabel("head", size=8, color=MUTED)
            axes.tick_params(length=0)
            left += size + 0.75
        left += 0.7
    return draw.to_png(figure)


def _photos(model, shown, rows, pixels, masses, scalars) -> Iterator[Picture]:
    for i, row in enumerate(rows):
        mean = {block: patches(model, mass[i].mean(0)) for block, mass in masses.items()}
        image = draw_photo(pixels[i], mean, scalars)
        note = (
            f"{shown.names[row]}: the attention mass of each patch, mean over the heads; one scale for all "
            "blocks. Below each block, from its lowest to its highest patch."
        )
        yield Picture(f"prefix_photo_{i + 1}.png", image, f"Photo {i + 1}", note, "Heat of patches by block")


def draw_photo(photo: np.ndarray, masses: dict[int, Float[np.ndarray, "gh gw"]], scalars: dict) -> bytes:
    """The photo, then a panel of heat for each block."""
    wide = 1.05
    tall = wide * photo.shape[0] / photo.shape[1]
    width, height = 1.6 + (len(masses) + 1) * (wide + 0.12), 0.95 + tall
    figure = draw.new_figure(width, height)
    high = max(mass.max() for mass in masses.values())
    for i, (name, values) in enumerate(
        [("photo", None), *((f"block {b + 1}", m) for b, m in masses.items())]
    ):
        box = ((0.25 + i * (wide + 0.12)) / width, 0.55 / height, wide / width, tall / height)
        axes = figure.add_axes(box)
        draw.heading(axes, name)
        draw.picture(axes, photo if values is None else draw.over(photo, draw.heat(values, 0, high), 0.75))
        if values is not None:
            below = f"{100 * values.min():.1f} to {100 * values.max():.1f} %"
            axes.text(0.5, -0.03, below, transform=axes.transAxes, ha="center", va="top", size=8, color=MUTED)
    left = 0.25 + (len(masses) + 1) * (wide + 0.12) + 0.1
    scale = figure.add_axes((left / width, 0.55 / height, 0.16 / width, tall / height))
    scale.imshow(draw.heat(np.linspace(1, 0, 64)[:, None], 0, 1), aspect="auto")
    draw.bare(scale)
    style = {"size": 8, "color": MUTED, "transform": scale.transAxes}
    scale.text(1.4, 1, f"{100 * high:.0f} % of the\nattention", va="top", **style)
    scale.text(1.4, 0, "0 %", va="bottom", **style)
    return draw.to_png(figure)


def _texts(sentences: Sequence[str], names: list[list[str]], masses: list[dict]) -> Iterator[Picture]:
    for i, (text, tokens, mine) in enumerate(zip(sentences, names, masses, strict=True), 1):
        image = draw_words(text, tokens, {block: mass.mean(0) for block, mass in mine.items()})
        note = (
            f"{text} The attention mass of each token, in percent, mean over the heads. The first words have "
            "few others to look at, for each sees only those before it."
        )
        yield Picture(f"prefix_text_{i}.png", image, f"Sentence {i}", note, "Table of tokens and blocks")


def draw_words(text: str, names: Sequence[str], masses: dict[int, Float[np.ndarray, " n"]]) -> bytes:
    """A cell a token and block, with the mass in percent."""
    top = 0.5
    width, height = 12.0, top + draw.words_height(names, list(masses))
    figure = draw.new_figure(width, height)
    figure.text(
        0.8 / width, 1 - 0.3 / height, draw.wrapped(text, 130, 1), size=11, color=INK, parse_math=False
    )
    values = np.stack(list(masses.values()))
    high = max(values.max(), 1e-6)
    for axes, (start, end) in zip(
        draw.word_axes(figure, names, list(masses), top), draw.word_rows(names), strict=True
    ):
        extent = (start - 0.5, end - 0.5, len(values) - 0.5, -0.5)
        axes.imshow(draw.heat(values[:, start:end], 0, high), extent=extent, aspect="auto")
        for row in range(len(values)):
            for token in range(start, end):
                value = values[row, token]
                style = {"color": "white" if value < 0.6 * high else INK, "size": 7.5}
                axes.text(token, row, f"{100 * value:.0f}", ha="center", va="center", **style)
    return draw.to_png(figure)
