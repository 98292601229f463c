"""One page without scripts or links, with all pictures inside it."""

import base64
from html import escape
from typing import NamedTuple

from tpr_jax.report.html import STYLE

OWN_STYLE = """
h1 { overflow-wrap: anywhere; }
.lead { max-width: 78ch; } .lead, .note { color: var(--ink); }
figure { margin: 14px 0; background: #fff; border: 1px solid var(--rule); border-radius: 12px; padding: 14px;
  overflow-x: auto; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
@media (max-width: 720px) { figure img { max-width: none; width: 860px; } }
"""


class Picture(NamedTuple):
    """A PNG with what is to be said of it."""

    file: str
    png: bytes
    heading: str
    note: str
    alt: str


def page(title: str, lead: list[str], body: str, aspect: float = 3.0) -> str:
    """The page; all text but `body` is escaped here. `aspect` is the height over width of photos in lists."""
    paragraphs = "".join(f'<p class="lead">{escape(text)}</p>' for text in lead)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}{OWN_STYLE}</style></head>
<body style="--photo: {1 / aspect:.3f}"><main>
<h1>{escape(title)}</h1>
{paragraphs}
{body}
</main></body></html>
"""


def figures(pictures: list[Picture]) -> str:
    """Pictures below each other, each under its heading."""
    return "".join(
        f"<h2>{escape(picture.heading)}</h2>"
        + (f'<p class="note">{escape(picture.note)}</p>' if picture.note else "")
        + f'<figure><img alt="{escape(picture.alt)}" src="data:image/png;base64,'
        + base64.b64encode(picture.png).decode()
        + '"></figure>'
        for picture in pictures
    )
