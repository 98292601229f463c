"""Shows how much attention each patch and word pays to the learned prefix tokens."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from tpr_jax.errors import UserError
from tpr_jax.model import Model
from tpr_jax.models.petl_config import Prefix
from tpr_jax.report.style import INK, MUTED
from tpr_jax.visualize import draw
from tpr_jax.visualize.features import introspect_images, introspect_texts, patch_grid
from tpr_jax.visualize.inputs import Examples, select_examples
from tpr_jax.visualize.page import PageFigure, render_figures, render_page
from tpr_jax.visualize.tokens import token_labels

TOWERS = {"visual": "Photos", "text": "Sentences"}


def check_model(model: Model) -> None:
    """Raises a UserError if the model has no prefix."""
    if not any(isinstance(part, Prefix) for part in (*model.method.vision, *model.method.text)):
        raise UserError(
            f"{model.source}: its method, {model.method.name}, has no prefix tokens: up_person and prefix "
            "have them, and a combination of parts with 'prefix' among them"
        )


def prefix_gates(model: Model) -> dict[str, dict[int, float]]:
    """Returns tower -> block -> the learned scalar of S-Prefix on the attention; 1 without a scalar."""
    gates: dict = {}
    for tower, blocks in model.variables["prefix"].items():
        leaves = {int(name.removeprefix("block_")): block["attn"]["prefix"] for name, block in blocks.items()}
        gates[tower] = {block: float(leaves[block].get("gate", 1.0)) for block in sorted(leaves)}
    return gates


def group_by_block(masses: dict[str, np.ndarray]) -> dict[int, np.ndarray]:
    """Converts {`visual/block_0`: value} to {0: value}, sorted by block."""
    blocks = {int(path.rpartition("_")[2]): value for path, value in masses.items()}
    return dict(sorted(blocks.items()))


def make_files(model: Model, examples: Examples, *, title: str, number: int) -> dict[str, bytes]:
    """Renders prefix.html and a PNG of the heads, of each photo and of each sentence."""
    check_model(model)
    photos, texts = select_examples(examples, number)
    scalars, means, page_figures = prefix_gates(model), {}, []
    if photos:
        batches = list(introspect_images(model, [examples.images[row] for row in photos]))
        pixels = np.concatenate([rows for rows, _ in batches])
        if masses := _concatenate(batches):
            means["visual"] = {block: mass.mean((0, 2)) for block, mass in masses.items()}
            page_figures += _image_figures(model, examples, photos, pixels, masses, scalars["visual"])
    if texts:
        sentences = [examples.texts[row] for row in texts]
        batches = list(introspect_texts(model, sentences))
        ids, masses = np.concatenate([rows for rows, _ in batches]), _concatenate(batches)
        assert model.tokenizer is not None  # it has read the sentences
        names = [token_labels(model.tokenizer, row, model.config, model.method.prompts) for row in ids]
        if masses:
            counted = [{b: mass[i, :, : len(n)] for b, mass in masses.items()} for i, n in enumerate(names)]
            means["text"] = {b: np.concatenate([c[b] for c in counted], axis=1).mean(1) for b in masses}
            page_figures += _text_figures(sentences, names, counted, model.config.causal)
    if not means:
        raise UserError(f"{model.source}: its prefix is only in the text tower: give some --text")
    page_figures.insert(0, _head_figure(means, scalars, model.config.has_class_token))
    part = next(p for p in (*model.method.vision, *model.method.text) if isinstance(p, Prefix))
    gated = part.gate is not None
    lead = [
        f"In each block every token also attends to {part.length} learned tokens, the prefix. Attention mass "
        "is the share of a token's attention that goes to the prefix: the sum of the softmax over its "
        f"{part.length} keys, from 0 % (no attention) to 100 % (all attention).",
        "S-Prefix multiplies this attention by a learned scalar without renormalizing the sum to 1; "
        "equivalently, the program scales the values of the prefix. Effective weight is attention mass times "
        "this scalar, and may exceed 1; all other tokens together have the weight 1 - mass."
        if gated
        else "This prefix has no learned scalar (it is not an S-Prefix), so its effective weight is its "
        "attention mass.",
    ]
    html = render_page(title, lead, render_figures(page_figures))
    return {"prefix.html": html.encode()} | {
        page_figure.file: page_figure.png for page_figure in page_figures
    }


def _concatenate(batches: list[tuple[np.ndarray, dict]]) -> dict[int, Float[np.ndarray, "b h n"]]:
    paths = batches[0][1]["prefix"]
    return group_by_block(
        {path: np.concatenate([activations["prefix"][path] for _, activations in batches]) for path in paths}
    )


def _head_figure(means: dict, scalars: dict, class_token: bool) -> PageFigure:
    note = (
        f"Mean over all tokens of the photos{' (including the class token)' * class_token} and of the "
        "sentences (up to end of text) below. Left: attention mass. Right: effective weight, the mass times "
        "the block's scalar, which is written beside it."
    )
    return PageFigure(
        "prefix_heads.png",
        draw_heads(means, scalars),
        "By block and head",
        note,
        "Tables of blocks and heads",
    )


def draw_heads(means: dict[str, dict[int, Float[np.ndarray, " h"]]], scalars: dict) -> bytes:
    """Draws two tables for each tower, with a row for each block and a column for each head."""
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
            draw.set_heading(axes, name)
            is_mass = name == "attention mass"
            middle = values.max() / 2
            for (y, x), value in np.ndenumerate(values):
                text = f"{100 * value:.0f} %" if is_mass else f"{value:.2f}"
                color = "white" if value < 1.2 * middle else INK
                axes.text(x, y, text, ha="center", va="center", color=color, size=7.5)
            draw.hide_axes(axes)
            side = [f"block {b + 1}" for b in rows] if is_mass else [f"× {g:.2f}" for g in gate]
            axes.set_yticks(range(len(rows)), side, size=8, color=MUTED)
            axes.set_xticks(range(count), [str(i + 1) for i in range(count)], size=8, color=MUTED)
            axes.set_xlabel("head", size=8, color=MUTED)
            axes.tick_params(length=0)
            left += size + 0.75
        left += 0.7
    return draw.to_png(figure)


def _image_figures(model, examples, rows, pixels, masses, scalars) -> Iterator[PageFigure]:
    for i, row in enumerate(rows):
        mean = {block: patch_grid(model, mass[i].mean(0)) for block, mass in masses.items()}
        image = draw_image(pixels[i], mean, scalars)
        note = (
            f"{examples.image_names[row]}: the attention mass of each patch, mean over the heads; one scale "
            "for all blocks. Below each block: its lowest and highest patch."
        )
        yield PageFigure(
            f"prefix_photo_{i + 1}.png", image, f"Photo {i + 1}", note, "Heat of patches by block"
        )


def draw_image(image: np.ndarray, masses: dict[int, Float[np.ndarray, "gh gw"]], scalars: dict) -> bytes:
    """Draws the image, then a heat map for each block."""
    wide = 1.05
    tall = wide * image.shape[0] / image.shape[1]
    width, height = 1.6 + (len(masses) + 1) * (wide + 0.12), 0.95 + tall
    figure = draw.new_figure(width, height)
    high = float(max(mass.max() for mass in masses.values()))
    for i, (name, values) in enumerate(
        [("photo", None), *((f"block {b + 1}", m) for b, m in masses.items())]
    ):
        box = ((0.25 + i * (wide + 0.12)) / width, 0.55 / height, wide / width, tall / height)
        axes = figure.add_axes(box)
        draw.set_heading(axes, name)
        draw.show_image(
            axes,
            image if values is None else draw.tint_patches(image, draw.heat_colors(values, 0, high), 0.75),
        )
        if values is not None:
            below = f"{100 * values.min():.1f} to {100 * values.max():.1f} %"
            axes.text(0.5, -0.03, below, transform=axes.transAxes, ha="center", va="top", size=8, color=MUTED)
    left = 0.25 + (len(masses) + 1) * (wide + 0.12) + 0.1
    scale = figure.add_axes((left / width, 0.55 / height, 0.16 / width, tall / height))
    scale.imshow(draw.heat_colors(np.linspace(1, 0, 64)[:, None], 0, 1), aspect="auto")
    draw.hide_axes(scale)
    style: dict[str, Any] = {"size": 8, "color": MUTED, "transform": scale.transAxes}
    scale.text(1.4, 1, f"{100 * high:.0f} % of the\nattention", va="top", **style)
    scale.text(1.4, 0, "0 %", va="bottom", **style)
    return draw.to_png(figure)


def _text_figures(
    sentences: Sequence[str], names: list[list[str]], masses: list[dict], causal: bool
) -> Iterator[PageFigure]:
    for i, (text, tokens, token_masses) in enumerate(zip(sentences, names, masses, strict=True), 1):
        image = draw_words(text, tokens, {block: mass.mean(0) for block, mass in token_masses.items()})
        note = (
            f"{text} The attention mass of each token, in percent, mean over the heads."
            + " The first words attend to few other tokens, because attention is causal." * causal
        )
        yield PageFigure(f"prefix_text_{i}.png", image, f"Sentence {i}", note, "Table of tokens and blocks")


def draw_words(text: str, names: Sequence[str], masses: dict[int, Float[np.ndarray, " n"]]) -> bytes:
    """Draws a cell for each token and block, with the mass in percent."""
    top = 0.5
    width, height = 12.0, top + draw.words_height(names, list(masses))
    figure = draw.new_figure(width, height)
    figure.text(
        0.8 / width, 1 - 0.3 / height, draw.wrap_text(text, 130, 1), size=11, color=INK, parse_math=False
    )
    values = np.stack(list(masses.values()))
    high = max(float(values.max()), 1e-6)
    for axes, (start, end) in zip(
        draw.word_axes(figure, names, list(masses), top), draw.word_rows(names), strict=True
    ):
        extent = (start - 0.5, end - 0.5, len(values) - 0.5, -0.5)
        axes.imshow(draw.heat_colors(values[:, start:end], 0, high), extent=extent, aspect="auto")
        for row in range(len(values)):
            for token in range(start, end):
                value = values[row, token]
                color = "white" if value < 0.6 * high else INK
                axes.text(token, row, f"{100 * value:.0f}", ha="center", va="center", color=color, size=7.5)
    return draw.to_png(figure)
