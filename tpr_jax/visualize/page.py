"""Renders a page without scripts or links that contains all of its figures."""

import base64
from html import escape
from typing import NamedTuple

from tpr_jax.report.style import STYLE_SHEET

OWN_STYLE = """
h1 { overflow-wrap: anywhere; }
.lead { max-width: 78ch; } .lead, .note { color: var(--ink); }
figure { margin: 14px 0; background: #fff; border: 1px solid var(--rule); border-radius: 12px; padding: 14px;
  overflow-x: auto; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
@media (max-width: 720px) { figure img { max-width: none; width: 860px; } }
"""


class PageFigure(NamedTuple):
    """A PNG with its file name, heading, description and alternative text."""

    file: str
    png: bytes
    heading: str
    note: str
    alt: str


def render_page(title: str, lead: list[str], body: str, aspect: float = 3.0) -> str:
    """Renders the page.

    Args:
      title: escaped here.
      lead: paragraphs at the top, escaped here.
      body: HTML.
      aspect: height over width of the photos in lists.
    """
    paragraphs = "".join(f'<p class="lead">{escape(text)}</p>' for text in lead)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE_SHEET}{OWN_STYLE}</style></head>
<body style="--photo: {1 / aspect:.3f}"><main>
<h1>{escape(title)}</h1>
{paragraphs}
{body}
</main></body></html>
"""


def render_figures(page_figures: list[PageFigure]) -> str:
    """Renders figures below each other, each under its heading."""
    return "".join(
        f"<h2>{escape(figure.heading)}</h2>"
        + (f'<p class="note">{escape(figure.note)}</p>' if figure.note else "")
        + f'<figure><img alt="{escape(figure.alt)}" src="data:image/png;base64,'
        + base64.b64encode(figure.png).decode()
        + '"></figure>'
        for figure in page_figures
    )
