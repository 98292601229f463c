"""Shows the similarity of each image patch to a sentence and to each of its words."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from tpr_jax.model import Model
from tpr_jax.report.style import INK, MUTED
from tpr_jax.utils.normalize import l2_normalize
from tpr_jax.visualize import draw
from tpr_jax.visualize.features import introspect_images, patch_grid
from tpr_jax.visualize.inputs import Examples, select_examples
from tpr_jax.visualize.page import PageFigure, render_figures, render_page

MAX_WORDS, COLUMNS = 22, 12


def unique_words(text: str) -> list[str]:
    """Returns the distinct words of a sentence, lower case and in order; at most `MAX_WORDS`."""
    words = re.findall(r"\w+(?:['’-]\w+)*", text.lower())
    return list(dict.fromkeys(words))[:MAX_WORDS]


def patch_cosines(
    model: Model, tokens: Float[np.ndarray, "n e"], text_feats: Float[np.ndarray, "t e"]
) -> Float[np.ndarray, "t gh gw"]:
    """Computes the cosine of each text feature and each patch feature of an image.

    Args:
      model: says how patches are arranged.
      tokens: features of all tokens of the vision tower in the common space, see `models.introspect`.
      text_feats: features of texts.
    """
    # The first token is the photo's feature, which is the class token's if there is one.
    first = 0 if model.config.has_class_token else 1
    return patch_grid(model, l2_normalize(text_feats) @ l2_normalize(tokens[first:]).T)


def make_files(model: Model, examples: Examples, *, title: str, number: int) -> dict[str, bytes]:
    """Renders words.html and a PNG for each photo and sentence."""
    photos, texts = select_examples(examples, number)
    own = examples.image_of_text is None
    pairs = [(p, t) for p in photos for t in texts] if own else list(zip(photos, texts, strict=True))
    order = {row: i for i, row in enumerate(photos)}
    batches = list(introspect_images(model, [examples.images[row] for row in photos]))
    pixels = np.concatenate([rows for rows, _ in batches])
    tokens = np.concatenate([activations["tokens"] for _, activations in batches])
    page_figures = []
    for i, (photo, text) in enumerate(pairs, 1):
        sentence = examples.texts[text]
        words = unique_words(sentence)
        feats = model.encode_texts([sentence, *words])
        photo_tokens = tokens[order[photo]]
        cosines = patch_cosines(model, photo_tokens, feats)
        photo_cosine = float(l2_normalize(photo_tokens[:1])[0] @ feats[0])
        image = draw_words(pixels[order[photo]], sentence, words, cosines, photo_cosine)
        note = f"{examples.image_names[photo]}, with: {sentence}"
        alt = "Heat over the photo for the sentence and each word"
        page_figures.append(PageFigure(f"words_{i}.png", image, f"Photo and sentence {i}", note, alt))
    how = (
        "the last LayerNorm and CLIP's projection, applied to the patch token as to the class token"
        if model.config.has_class_token
        else "what SigLIP's attention pooling gives for this patch alone"
    )
    trained = "class token" if model.config.has_class_token else "pooled feature"
    lead = [
        "Each panel shows the cosine similarity of each patch's feature "
        f"({how}) and the feature of a text. The first "
        "heat map is for the whole sentence; the others are for single words, each encoded as a text of its "
        "own. Yellow is the highest and dark blue the lowest patch of a panel; the two numbers below it are "
        "their values.",
        f"Interpret the maps with care. Only the {trained} is trained to match the text; the patches are "
        "not. The feature of a patch may hold information about the rest of the photo, so a bright patch "
        "need not show the word, nor a dark one lack it. If the two numbers are close, the panel says "
        "little; if many words give the same panel, single words say little to this model, which was "
        "trained with whole sentences.",
    ]
    html = render_page(title, lead, render_figures(page_figures))
    return {"words.html": html.encode()} | {page_figure.file: page_figure.png for page_figure in page_figures}


def draw_words(
    image: np.ndarray,
    sentence: str,
    words: Sequence[str],
    cosines: Float[np.ndarray, "t gh gw"],
    photo_cosine: float,
) -> bytes:
    """Draws the image, then a heat map for the sentence and for each word."""
    wide = 0.95
    tall = wide * image.shape[0] / image.shape[1]
    count = len(cosines) + 1
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    step = tall + 0.62
    width, height = max(0.4 + columns * (wide + 0.12), 7.0), 0.95 + rows * step
    figure = draw.new_figure(width, height)
    line = draw.wrap_text(sentence, int(width * 11), 2)
    figure.text(0.25 / width, 1 - 0.42 / height, line, size=10.5, color=INK, va="center", parse_math=False)
    for i, name in enumerate(["photo", "whole sentence", *words]):
        row, column = divmod(i, columns)
        left, top = 0.25 + column * (wide + 0.12), 1.05 + row * step
        box = (left / width, 1 - (top + tall) / height, wide / width, tall / height)
        axes = figure.add_axes(box)
        draw.set_heading(axes, name if len(name) < 16 else name[:14] + "…")
        if i == 0:
            draw.show_image(axes, image)
            below = f"photo and\nsentence: {photo_cosine:.3f}"
        else:
            values = cosines[i - 1]
            low, high = float(values.min()), float(values.max())
            draw.show_image(axes, draw.tint_patches(image, draw.heat_colors(values, low, high), 0.7))
            below = f"{low:.2f} to {high:.2f}"
        axes.text(0.5, -0.03, below, transform=axes.transAxes, ha="center", va="top", size=8, color=MUTED)
    return draw.to_png(figure)
