"""Sentences and the photos that they find, best first."""

from html import escape

import numpy as np
from matplotlib.patches import Rectangle

from tpr_jax.metrics import retrieval
from tpr_jax.model import Model
from tpr_jax.report import html as report_html
from tpr_jax.report import write as report
from tpr_jax.report.png import GREEN, INK, MUTED, PAPER, RULE
from tpr_jax.visualize import draw
from tpr_jax.visualize.inputs import Shown, spread
from tpr_jax.visualize.look import photo_feats
from tpr_jax.visualize.page import page

PHOTOS = 10  # in a row of the PNG
UNKNOWN = -1


def find(model: Model, shown: Shown, number: int, top_k: int) -> list[dict]:
    """The first `top_k` photos of each query, as `report.prepare_query` takes them.

    Queries are one's own sentences, all of them, or else `number` captions spread over the split. Where
    nobody knows who is who the `pid` of a photo is None and that of the sentence -1.
    """
    known = shown.text_pids is not None
    rows = spread(len(shown.texts), number) if known else np.arange(len(shown.texts))
    texts = [shown.texts[row] for row in rows]
    queries = model.encode_texts(texts)
    scores, index = retrieval.top_k(queries, photo_feats(model, shown.photos), top_k)
    pid_of = (lambda i: int(shown.photo_pids[i])) if known else lambda i: None
    return [
        {
            "caption": text,
            "pid": int(shown.text_pids[row]) if known else UNKNOWN,
            "ranked": [
                {"path": shown.photos[i], "name": shown.names[i], "pid": pid_of(i), "score": float(s)}
                for i, s in zip(index[place], scores[place], strict=True)
            ],
        }
        for place, (row, text) in enumerate(zip(rows, texts, strict=True))
    ]


def make(model: Model, shown: Shown, *, title: str, number: int, top_k: int) -> dict[str, bytes]:
    """grid.html and grid.png."""
    found = find(model, shown, number, top_k)
    prepared = [report.prepare_query(query) for query in found]
    known = shown.text_pids is not None
    lead = (
        f"Each sentence with the first {len(found[0]['ranked'])} of {len(shown.photos):,} photos, best "
        "first; the number is the cosine of the two features."
    )
    if known:
        firsts = [query["first_right"] == 1 for query in prepared]
        lead += (
            " Photos of the person whom the sentence was written about are framed in green and ticked: first "
            f"place is right in {sum(firsts)} of {len(firsts)}."
        )
    else:
        lead += " Nobody said who is on which photo, so none is marked as right."
    cards = "".join(_card(query, ready, known) for query, ready in zip(found, prepared, strict=True))
    html = page(title, [lead], cards, report.photo_aspect(prepared))
    return {"grid.html": html.encode(), "grid.png": png(title, lead, prepared)}


def _card(query: dict, ready: dict, known: bool) -> str:
    place = ready["first_right"]
    where = f"first right photo at place {place}" if place else "no right photo among these"
    photos = ""
    for i, (photo, small) in enumerate(zip(query["ranked"], ready["ranked"], strict=True), 1):
        alt = escape(f"Place {i}: {photo['name']}" + (", the right person" if small["right"] else ""))
        photos += (
            f"<li{' class=right' if small['right'] else ''}>"
            f'<img src="{report_html.data_uri(small["image"])}" alt="{alt}" title="{alt}">'
            f"<span>{'✓ ' * small['right']}{small['score']:.3f}</span></li>"
        )
    return (
        f'<article class="card query"><blockquote>{escape(query["caption"])}</blockquote>'
        f'<p>{where if known else ""}</p><ol class="photos">{photos}</ol></article>'
    )


def png(title: str, lead: str, queries: list[dict]) -> bytes:
    """A row a query: its sentence, and its first ten photos with their cosines below."""
    wide, gap, sentence = 1.0, 0.1, 0.5
    tall = wide * report.photo_aspect(queries)
    step = sentence + tall + 0.45
    width = 0.8 + PHOTOS * (wide + gap)
    height = 1.35 + len(queries) * step
    figure = draw.new_figure(width, height)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    short = draw.wrapped(title, 105, 1)
    axes.text(0.4, 0.5, short, size=14, weight="bold", color=INK, parse_math=False)
    axes.text(0.4, 1.05, draw.wrapped(lead, 150), size=10, color=MUTED, va="center", parse_math=False)
    for i, query in enumerate(queries):
        top = 1.4 + i * step + sentence
        text = draw.wrapped(query["caption"], 130)
        axes.text(0.4, top - 0.1, text, size=11, color=INK, va="bottom", parse_math=False)
        for j, photo in enumerate(query["ranked"][:PHOTOS]):
            x, right = 0.4 + j * (wide + gap), photo["right"]
            axes.imshow(photo["image"], extent=(x, x + wide, top + tall, top), aspect="auto")
            edge = {"edgecolor": GREEN, "linewidth": 4} if right else {"edgecolor": RULE, "linewidth": 1}
            axes.add_patch(Rectangle((x, top), wide, tall, fill=False, zorder=3, **edge))
            if right:  # a sign beside the color: not everybody tells green from gray
                axes.add_patch(Rectangle((x, top), 0.2, 0.2, color=GREEN, zorder=4, linewidth=0))
                mark = {"color": PAPER, "ha": "center", "va": "center", "zorder": 5}
                axes.text(x + 0.1, top + 0.1, "✓", size=10, **mark)
            score = {"size": 8.5, "color": GREEN if right else MUTED, "ha": "center", "va": "top"}
            axes.text(x + wide / 2, top + tall + 0.06, f"{photo['score']:.3f}", **score)
    axes.set(xlim=(0, width), ylim=(height, 0))  # imshow fits them to its last picture
    return draw.to_png(figure)
