"""report.html: one file without scripts or links, readable in light and dark, on a desk and on a phone."""

import base64
import io
import math
from html import escape

from tpr_jax.metrics.retrieval import METRIC_KEYS
from tpr_jax.report import write as report

STYLE = """
:root { color-scheme: light dark; --paper: #f6f7f9; --card: #fff; --ink: #1d2229; --muted: #646d7a;
  --rule: #dfe2e7; --blue: #2f6fdd; --amber: #c96f14; --green: #1a8a4a; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171c; --card: #1d2128; --ink: #e8eaee;
  --muted: #9aa3b0; --rule: #343a44; --blue: #7aa8ff; --amber: #f0a550; --green: #4ccb83; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; margin: 0 0 20px; }
h2 { font-size: 1.25rem; margin: 40px 0 4px; }
p { margin: 0 0 14px; color: var(--muted); }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 12px; padding: 18px 20px; }
.tiles, .cards { display: grid; gap: 14px; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); }
.cards { grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); margin: 14px 0; }
.tile b { display: block; font-size: 1.6rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { color: var(--muted); font-size: .875rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .9375rem; }
th, td { padding: 8px 0 8px 8px; text-align: right; border-top: 1px solid var(--rule); line-height: 1.3; }
thead th { border: 0; color: var(--muted); font-weight: 500; font-size: .8125rem; }
th:first-child { text-align: left; padding-left: 0; font-weight: 400; }
thead th:first-child { color: var(--ink); font-weight: 600; font-size: 1rem; }
.stress td { color: var(--green); font-weight: 700; }
.stress th:first-child { font-weight: 700; }
svg { width: 100%; height: auto; display: block; font-size: 13px; fill: var(--muted); }
svg .title { font-size: 16px; font-weight: 600; fill: var(--ink); }
svg line { stroke: var(--rule); }
svg polyline { fill: none; stroke: currentColor; stroke-width: 2.5; stroke-linejoin: round; }
svg .thin { stroke-width: 1; opacity: .35; }
svg circle, svg .label { fill: currentColor; }
.blue { color: var(--blue); } .amber { color: var(--amber); } .green { color: var(--green); }
.query { margin-bottom: 14px; }
.query blockquote { margin: 0; font-size: 1.05rem; overflow-wrap: anywhere; }
.query p { font-size: .875rem; margin: 2px 0 12px; }
.photos { display: grid; grid-template-columns: repeat(10, 1fr); gap: 10px; list-style: none;
  margin: 0; padding: 0; }
.photos img { width: 100%; height: auto; aspect-ratio: var(--photo); object-fit: cover; display: block;
  border-radius: 6px; outline: 1px solid var(--rule); }
.photos .right img { outline: 4px solid var(--green); }
.photos li { font-size: .75rem; color: var(--muted); text-align: center; font-variant-numeric: tabular-nums; }
.photos .right { color: var(--green); font-weight: 700; }
.photos span { display: block; padding-top: 6px; }
@media (max-width: 720px) { main { padding: 20px 12px 48px; } .card { padding: 14px; }
  .photos { grid-template-columns: repeat(5, 1fr); } }
"""

# Inside an SVG: its size, and the rectangle (left, top, right, bottom) that the curves fill.
CHART_SIZE, PLOT = (520, 320), (48, 48, 500, 270)


def page(facts: dict) -> str:
    """The page of the facts that `report.write_report` gathers. All text is escaped."""
    title = escape(facts["title"])
    cards = [loss_chart(facts["loss"])] if facts["loss"] else []
    cards += [recall_chart(facts["recall"])] if facts["recall"] else []
    if facts["rows"]:
        cards.append(table("t2i", "Text to image, %", facts["rows"]))
        cards.append(table("i2t", "Image to text, %", facts["rows"]))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{STYLE}</style></head>
<body style="--photo: {1 / report.photo_aspect(facts["queries"]):.3f}"><main>
<h1>{title}</h1>
<div class="tiles">{"".join(_tile(*tile) for tile in facts["tiles"])}</div>
<div class="cards">{"".join(f'<div class="card">{card}</div>' for card in cards)}</div>
{queries(facts["queries"]) if facts["queries"] else ""}
</main></body></html>
"""


def table(way: str, heading: str, rows) -> str:
    names = "".join(f"<th>{key.replace('R', 'R@')}</th>" for key in METRIC_KEYS)
    body = "".join(
        f'<tr{" class=stress" if stress else ""}><th scope="row">{escape(label)}</th>'
        + "".join(f"<td>{metrics[way][key]:.1f}</td>" for key in METRIC_KEYS)
        + "</tr>"
        for label, metrics, stress in rows
    )
    return f"<table><thead><tr><th>{heading}</th>{names}</tr></thead><tbody>{body}</tbody></table>"


def queries(prepared) -> str:
    found = sum(q["first_right"] == 1 for q in prepared)
    return (
        "<h2>What the queries found</h2><p>The first photos of each query, best first; those of the right "
        f"person are framed in green. First place was right in {found} of {len(prepared)}.</p>"
        + "".join(_query(q) for q in prepared)
    )


def _query(query) -> str:
    first = query["first_right"]
    where = f"first right photo at place {first}" if first else "no right photo among these"
    return (
        f'<article class="card query"><blockquote>{escape(query["caption"])}</blockquote><p>{where}</p>'
        f'<ol class="photos">{"".join(_photo(i, r) for i, r in enumerate(query["ranked"], 1))}</ol></article>'
    )


def _photo(place, ranked) -> str:
    right = ranked["right"]
    alt = f"Place {place}, {'the right person' if right else 'another person'}"
    tick = "✓ " if right else ""
    return (
        f'<li{" class=right" if right else ""}><img src="{data_uri(ranked["image"])}" alt="{alt}">'
        f"<span>{tick}{ranked['score']:.3f}</span></li>"
    )


def data_uri(image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def loss_chart(points) -> str:
    scale = scales([points], from_zero=False)
    curves = _line(points, scale, "blue thin") + _line(report.smoothed(points), scale, "blue")
    return _chart("Training loss", "step", scale, curves)


def recall_chart(curves) -> str:
    scale = scales(list(curves.values()), from_zero=True)
    drawn = ""
    for i, (color, (label, points)) in enumerate(zip(("green", "amber"), curves.items(), strict=False)):
        drawn += _line(points, scale, color)
        for x, y in points:
            at = f'cx="{scale["x"](x):.1f}" cy="{scale["y"](y):.1f}"'
            hint = f"<title>epoch {x:g}: {y:.2f} %</title>"
            drawn += f'<circle class="{color}" {at} r="3.5">{hint}</circle>'
        place = f'x="{PLOT[2]}" y="{PLOT[3] - 34 + 20 * i}" text-anchor="end"'
        drawn += f'<text class="label {color}" {place}>{escape(label)}</text>'
    return _chart("R@1 by epoch, %", "epoch", scale, drawn)


def scales(curves, *, from_zero: bool) -> dict:
    """Maps of data to pixels, {"x", "y"}, and the round values to mark, {"x_ticks", "y_ticks"}."""
    xs, ys = [x for c in curves for x, _ in c], [y for c in curves for _, y in c]
    left, top, right, bottom = PLOT
    low, high = (0 if from_zero else min(ys)), max(ys)
    x_span, y_span = max(xs) - min(xs) or 1, (high - low or 1) * 1.05
    low -= 0 if from_zero else 0.05 * y_span
    return {
        "x": lambda x: left + 8 + (right - left - 16) * (x - min(xs)) / x_span,
        "y": lambda y: bottom - (bottom - top) * (y - low) / (y_span * 1.05),
        "x_ticks": ticks(min(xs), max(xs)),
        "y_ticks": ticks(low, high),
    }


def ticks(low: float, high: float, most: int = 8) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high], at most `most` of them."""
    if high <= low:
        return [low]
    rough = (high - low) / (most - 1)
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _chart(title, x_label, scale, curves) -> str:
    (width, height), (left, _, right, bottom) = CHART_SIZE, PLOT
    marks = ""
    for y in scale["y_ticks"]:
        at = f"{scale['y'](y):.1f}"
        marks += f'<line x1="{left}" x2="{right}" y1="{at}" y2="{at}"/>'
        marks += f'<text x="{left - 8}" y="{at}" dy=".35em" text-anchor="end">{y:g}</text>'
    for x in scale["x_ticks"]:
        marks += f'<text x="{scale["x"](x):.1f}" y="{bottom + 20}" text-anchor="middle">{x:g}</text>'
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{title}">'
        f'<text class="title" x="0" y="16">{title}</text>{marks}{curves}'
        f'<text x="{(left + right) / 2}" y="{height - 8}" text-anchor="middle">{x_label}</text></svg>'
    )


def _line(points, scale, css) -> str:
    path = " ".join(f"{scale['x'](x):.1f},{scale['y'](y):.1f}" for x, y in points)
    return f'<polyline class="{css}" points="{path}"/>'


def _tile(label, value, remark) -> str:
    return (
        f'<div class="card tile"><span>{escape(label)}</span><b>{escape(value)}</b>'
        f"<span>{escape(remark)}</span></div>"
    )
