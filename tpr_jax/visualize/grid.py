"""Shows sentences and the photos that they retrieve, best first."""

from html import escape
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from tpr_jax.metrics import retrieval
from tpr_jax.model import Model
from tpr_jax.report.facts import QueryResult, image_aspect, prepare_query
from tpr_jax.report.html import photo_item
from tpr_jax.report.style import GREEN, INK, MUTED, PAPER, RULE
from tpr_jax.visualize import draw
from tpr_jax.visualize.features import encode_images
from tpr_jax.visualize.inputs import Examples, evenly_spaced
from tpr_jax.visualize.page import render_page

PHOTOS = 10  # in a row of the PNG
UNKNOWN_PID = -1


def retrieve(model: Model, examples: Examples, number: int, top_k: int) -> list[dict]:
    """Retrieves the first `top_k` images of each query, in the format of `report.facts.prepare_query`.

    The queries are all of the user's sentences, or `number` captions spread over the split. Without
    identities, the `pid` of an image is None and that of a sentence -1.
    """
    text_pids = examples.text_pids
    image_pids = None if text_pids is None else examples.image_pids
    count = len(examples.texts)
    rows = np.arange(count) if text_pids is None else evenly_spaced(count, number)
    texts = [examples.texts[row] for row in rows]
    queries = model.encode_texts(texts)
    scores, index = retrieval.top_k(queries, encode_images(model, examples.images), top_k)
    return [
        {
            "caption": text,
            "pid": UNKNOWN_PID if text_pids is None else int(text_pids[row]),
            "ranked": [
                {
                    "path": examples.images[i],
                    "name": examples.image_names[i],
                    "pid": None if image_pids is None else int(image_pids[i]),
                    "score": float(s),
                }
                for i, s in zip(index[i_query], scores[i_query], strict=True)
            ],
        }
        for i_query, (row, text) in enumerate(zip(rows, texts, strict=True))
    ]


def make_files(model: Model, examples: Examples, *, title: str, number: int, top_k: int) -> dict[str, bytes]:
    """Renders grid.html and grid.png."""
    retrievals = retrieve(model, examples, number, top_k)
    results = [prepare_query(query) for query in retrievals]
    has_pids = examples.text_pids is not None
    lead = (
        f"Each sentence with the first {len(results[0].ranked)} of {len(examples.images):,} photos, best "
        "first; the number is the cosine similarity of the two features."
    )
    if has_pids:
        correct = sum(result.first_match == 1 for result in results)
        lead += (
            " Photos of the person that the sentence describes are framed in green and ticked: the first "
            f"photo is right for {correct} of {len(results)}."
        )
    else:
        lead += " The identities are unknown, so no photo is marked as right."
    cards = "".join(_card(query, result, has_pids) for query, result in zip(retrievals, results, strict=True))
    html = render_page(title, [lead], cards, image_aspect(results))
    return {"grid.html": html.encode(), "grid.png": draw_grid(title, lead, results)}


def _card(query: dict, result: QueryResult, has_pids: bool) -> str:
    rank = result.first_match
    note = f"first right photo at rank {rank}" if rank else "no right photo among these"
    photos = ""
    for i, (photo, ranked) in enumerate(zip(query["ranked"], result.ranked, strict=True), 1):
        alt = escape(f"Rank {i}: {photo['name']}" + (", the right person" if ranked.is_match else ""))
        photos += photo_item(ranked, alt, f' title="{alt}"')
    return (
        f'<article class="card query"><blockquote>{escape(query["caption"])}</blockquote>'
        f'<p>{note if has_pids else ""}</p><ol class="photos">{photos}</ol></article>'
    )


def draw_grid(title: str, lead: str, results: list[QueryResult]) -> bytes:
    """Draws a row for each query: its sentence, and its first ten photos with their scores."""
    photo_width, gap, sentence = 1.0, 0.1, 0.5
    photo_height = photo_width * image_aspect(results)
    step = sentence + photo_height + 0.45
    width = 0.8 + PHOTOS * (photo_width + gap)
    height = 1.35 + len(results) * step
    figure = draw.new_figure(width, height)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    short = draw.wrap_text(title, 105, 1)
    axes.text(0.4, 0.5, short, size=14, weight="bold", color=INK, parse_math=False)
    axes.text(0.4, 1.05, draw.wrap_text(lead, 150), size=10, color=MUTED, va="center", parse_math=False)
    for i, result in enumerate(results):
        top = 1.4 + i * step + sentence
        text = draw.wrap_text(result.caption, 130)
        axes.text(0.4, top - 0.1, text, size=11, color=INK, va="bottom", parse_math=False)
        for j, ranked in enumerate(result.ranked[:PHOTOS]):
            x, is_match = 0.4 + j * (photo_width + gap), ranked.is_match
            axes.imshow(ranked.thumbnail, extent=(x, x + photo_width, top + photo_height, top), aspect="auto")
            edge: dict[str, Any] = (
                {"edgecolor": GREEN, "linewidth": 4} if is_match else {"edgecolor": RULE, "linewidth": 1}
            )
            axes.add_patch(Rectangle((x, top), photo_width, photo_height, fill=False, zorder=3, **edge))
            if is_match:  # a check mark beside the color, for readers who are color-blind
                axes.add_patch(Rectangle((x, top), 0.2, 0.2, color=GREEN, zorder=4, linewidth=0))
                axes.text(x + 0.1, top + 0.1, "✓", size=10, color=PAPER, ha="center", va="center", zorder=5)
            axes.text(
                x + photo_width / 2,
                top + photo_height + 0.06,
                f"{ranked.score:.3f}",
                size=8.5,
                color=GREEN if is_match else MUTED,
                ha="center",
                va="top",
            )
    axes.set(xlim=(0, width), ylim=(height, 0))  # imshow fits them to its last image
    return draw.to_png(figure)
