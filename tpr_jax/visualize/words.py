"""How alike each patch of a photo is to a sentence, and to each of its words."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from tpr_jax.metrics.retrieval import l2_normalize
from tpr_jax.model import Model
from tpr_jax.report.png import INK, MUTED
from tpr_jax.visualize import draw
from tpr_jax.visualize.inputs import Shown, some
from tpr_jax.visualize.look import inside_photos, patches
from tpr_jax.visualize.page import Picture, figures, page

MOST_WORDS, COLUMNS = 22, 12


def words_of(text: str) -> list[str]:
    """The words of a sentence, lower case, each once, in order; at most `MOST_WORDS`."""
    found = re.findall(r"\w+(?:['’-]\w+)*", text.lower())
    return list(dict.fromkeys(found))[:MOST_WORDS]


def patch_cosines(
    model: Model, tokens: Float[np.ndarray, "n e"], text_feats: Float[np.ndarray, "t e"]
) -> Float[np.ndarray, "t gh gw"]:
    """The cosine of each text's feature with the feature of each patch of a photo.

    `tokens` are the features of all the vision tower's tokens, behind its last LayerNorm and projection.
    """
    return patches(model, l2_normalize(text_feats) @ l2_normalize(tokens).T)


def make(model: Model, shown: Shown, *, title: str, number: int) -> dict[str, bytes]:
    """words.html and a PNG for each photo and sentence."""
    photos, texts = some(shown, number)
    own = shown.described is None
    pairs = [(p, t) for p in photos for t in texts] if own else list(zip(photos, texts, strict=True))
    order = {row: i for i, row in enumerate(photos)}
    batches = list(inside_photos(model, [shown.photos[row] for row in photos]))
    pixels = np.concatenate([rows for rows, _ in batches])
    tokens = np.concatenate([found["tokens"] for _, found in batches])
    pictures = []
    for i, (photo, text) in enumerate(pairs, 1):
        sentence = shown.texts[text]
        words = words_of(sentence)
        feats = model.encode_texts([sentence, *words])
        mine = tokens[order[photo]]
        cosines = patch_cosines(model, mine, feats)
        whole = float(l2_normalize(mine[:1])[0] @ feats[0])
        image = draw_words(pixels[order[photo]], sentence, words, cosines, whole)
        note = f"{shown.names[photo]}, with: {sentence}"
        alt = "Heat over the photo for the sentence and each word"
        pictures.append(Picture(f"words_{i}.png", image, f"Photo and sentence {i}", note, alt))
    lead = [
        "Each panel is the photo with a color a patch: the cosine of the patch's feature (the last "
        "LayerNorm and CLIP's projection applied to the patch's token, as to the class token) and the "
        "feature of a text. The first panel with heat is for the whole sentence; the others are for "
        "single words, each read by the text tower as a text of its own. Yellow is the highest and dark "
        "blue the lowest patch of that panel: the two numbers below it say how far apart they are.",
        "Read it with care. Only the class token is trained to agree with the text; patches are not. A "
        "patch's feature may hold what the network keeps there about the rest of the photo, so a bright "
        "patch need not be where the word is seen, and a dark one need not be where it is not. Where the "
        "two numbers are close to each other, the panel says little; where many words give the same "
        "panel, a word by itself says little to this model, which was trained with whole sentences.",
    ]
    html = page(title, lead, figures(pictures))
    return {"words.html": html.encode()} | {picture.file: picture.png for picture in pictures}


def draw_words(
    photo: np.ndarray,
    sentence: str,
    words: Sequence[str],
    cosines: Float[np.ndarray, "t gh gw"],
    whole: float,
) -> bytes:
    """The photo, then a panel of heat for the sentence and for each word."""
    wide = 0.95
    tall = wide * photo.shape[0] / photo.shape[1]
    count = len(cosines) + 1
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    step = tall + 0.62
    width, height = max(0.4 + columns * (wide + 0.12), 7.0), 0.95 + rows * step
    figure = draw.new_figure(width, height)
    line = draw.wrapped(sentence, int(width * 11), 2)
    figure.text(0.25 / width, 1 - 0.42 / height, line, size=10.5, color=INK, va="center", parse_math=False)
    for i, name in enumerate(["photo", "whole sentence", *words]):
        row, column = divmod(i, columns)
        left, top = 0.25 + column * (wide + 0.12), 1.05 + row * step
        box = (left / width, 1 - (top + tall) / height, wide / width, tall / height)
        axes = figure.add_axes(box)
        draw.heading(axes, name if len(name) < 16 else name[:14] + "…")
        if i == 0:
            draw.picture(axes, photo)
            below = f"photo and\nsentence: {whole:.3f}"
        else:
            values = cosines[i - 1]
            low, high = float(values.min()), float(values.max())
            draw.picture(axes, draw.over(photo, draw.heat(values, low, high), 0.7))
            below = f"{low:.2f} to {high:.2f}"
        axes.text(0.5, -0.03, below, transform=axes.transAxes, ha="center", va="top", size=8, color=MUTED)
    return draw.to_png(figure)
