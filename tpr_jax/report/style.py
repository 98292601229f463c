"""Colors and style sheet that the report, the plots of `compare` and the pages of `visualize` share."""

INK, MUTED, RULE, PAPER = "#1d2229", "#6a7280", "#d9dce1", "#ffffff"
BLUE, AMBER, GREEN = "#2f6fdd", "#d9822b", "#1f9d55"
DPI = 100

# The variable of the style sheet that replaces a color in an SVG, so that charts follow dark mode.
CSS_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    BLUE: "var(--blue)",
    AMBER: "var(--amber)",
    GREEN: "var(--green)",
}

STYLE_SHEET = """
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
.emphasized td { color: var(--green); font-weight: 700; }
.emphasized th:first-child { font-weight: 700; }
svg { width: 100%; height: auto; display: block; overflow: visible; }
svg text { font-family: inherit !important; }
.query { margin-bottom: 14px; }
.query blockquote { margin: 0; font-size: 1.05rem; overflow-wrap: anywhere; }
.query p { font-size: .875rem; margin: 2px 0 12px; }
.photos { display: grid; grid-template-columns: repeat(10, 1fr); gap: 10px; list-style: none;
  margin: 0; padding: 0; }
.photos img { width: 100%; height: auto; aspect-ratio: var(--photo); object-fit: cover; display: block;
  border-radius: 6px; outline: 1px solid var(--rule); }
.photos .match img { outline: 4px solid var(--green); }
.photos li { font-size: .75rem; color: var(--muted); text-align: center; font-variant-numeric: tabular-nums; }
.photos .match { color: var(--green); font-weight: 700; }
.photos span { display: block; padding-top: 6px; }
@media (max-width: 720px) { main { padding: 20px 12px 48px; } .card { padding: 14px; }
  .photos { grid-template-columns: repeat(5, 1fr); } }
"""
