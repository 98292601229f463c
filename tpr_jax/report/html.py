"""Renders report.html: one file without scripts or links, for light and dark mode, desktop and phone."""

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from tpr_jax.metrics.retrieval import METRIC_KEYS
from tpr_jax.report.charts import loss_svg, recall_svg
from tpr_jax.report.facts import QueryResult, RankedImage, ReportFacts, TableRow, Tile, image_aspect
from tpr_jax.report.style import STYLE_SHEET


def render(facts: ReportFacts) -> str:
    """Renders the page; all text is escaped."""
    title = escape(facts.title)
    cards = [loss_svg(facts.loss)] if facts.loss else []
    cards += [recall_svg(facts.recall)] if facts.recall else []
    if facts.rows:
        cards.append(_table("t2i", "Text to image, %", facts.rows))
        cards.append(_table("i2t", "Image to text, %", facts.rows))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{STYLE_SHEET}</style></head>
<body style="--photo: {1 / image_aspect(facts.queries):.3f}"><main>
<h1>{title}</h1>
{_remarks(facts.remarks)}
<div class="tiles">{"".join(_tile(tile) for tile in facts.tiles)}</div>
<div class="cards">{"".join(f'<div class="card">{card}</div>' for card in cards)}</div>
{_queries(facts.queries) if facts.queries else ""}
</main></body></html>
"""


def _remarks(remarks: Sequence[str]) -> str:
    return f"<p>{escape(' '.join(remarks))}</p>" if remarks else ""


def _table(direction: str, heading: str, rows: Sequence[TableRow]) -> str:
    names = "".join(f"<th>{key.replace('R', 'R@')}</th>" for key in METRIC_KEYS)
    body = "".join(
        f'<tr{" class=emphasized" if row.emphasized else ""}><th scope="row">{escape(row.label)}</th>'
        + "".join(f"<td>{row.metrics[direction][key]:.1f}</td>" for key in METRIC_KEYS)
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr><th>{heading}</th>{names}</tr></thead><tbody>{body}</tbody></table>"


def _queries(queries: Sequence[QueryResult]) -> str:
    correct = sum(query.first_match == 1 for query in queries)
    return (
        "<h2>What the queries retrieve</h2><p>The first photos of each query, best first; photos of the "
        f"right person are framed in green. The first photo is right for {correct} of {len(queries)}.</p>"
        + "".join(_query(query) for query in queries)
    )


def _query(query: QueryResult) -> str:
    rank = query.first_match
    note = f"first right photo at rank {rank}" if rank else "no right photo among these"
    photos = "".join(_photo(i, image) for i, image in enumerate(query.ranked, 1))
    return (
        f'<article class="card query"><blockquote>{escape(query.caption)}</blockquote><p>{note}</p>'
        f'<ol class="photos">{photos}</ol></article>'
    )


def _photo(rank: int, ranked: RankedImage) -> str:
    alt = f"Rank {rank}, {'the right person' if ranked.is_match else 'another person'}"
    return photo_item(ranked, alt)


def photo_item(ranked: RankedImage, alt: str, attributes: str = "") -> str:
    """Renders a retrieved image with its score as a list item; `alt` must be escaped."""
    check_mark = "✓ " if ranked.is_match else ""
    return (
        f"<li{' class=match' if ranked.is_match else ''}>"
        f'<img src="{data_uri(ranked.thumbnail)}" alt="{alt}"{attributes}>'
        f"<span>{check_mark}{ranked.score:.3f}</span></li>"
    )


def data_uri(image: Image.Image) -> str:
    """Encodes an image as a JPEG in a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _tile(tile: Tile) -> str:
    return (
        f'<div class="card tile"><span>{escape(tile.label)}</span><b>{escape(tile.value)}</b>'
        f"<span>{escape(tile.remark)}</span></div>"
    )
