"""Renders reproduction.md from a document: the verdicts, then everything they rest on.

Pure functions: a document in, text out.
"""

from collections.abc import Sequence

from tpr_jax.compare.spread import Spread
from tpr_jax.data import datasets
from tpr_jax.report.facts import METHOD_NAMES
from tpr_jax.reproduce.copies import Copy
from tpr_jax.reproduce.document import Document
from tpr_jax.reproduce.estimate import format_hours
from tpr_jax.reproduce.rows import METRIC, NOT_COMPARABLE, PROTOCOLS, Row, distinct
from tpr_jax.utils import markdown

NAME = "reproduction.md"
TITLE = "# Reproduction of the published results"
MISSING = "–"
NOTE = (
    "Test split, text to image, percent: mean ± sample standard deviation (n - 1) over the seeds. The "
    "verdict is about R@1 by the protocol of the papers, which report the epoch that is best on the test "
    "split itself: an optimistic score. The last two columns have the R@1 of the epoch that is best on val, "
    "and of the last one. Zero-shot CLIP is not trained. tpr_peft is this project's own recipe."
)
HASHES = (
    "The first hash is the SHA-256 of the annotation file. The second one is the SHA-256 of the list of "
    'images: one line "PATH, tab, BYTES" for each image that the annotation names, in the order of the '
    "paths; the contents of the images are not read."
)


def render(document: Document) -> str:
    """Renders a document as Markdown."""
    blocks = [TITLE, NOTE]
    for dataset in distinct(row.dataset for row in document.rows):
        rows = [row for row in document.rows if row.dataset == dataset]
        blocks += [f"## {datasets.label(dataset)}", render_verdicts(rows), *_reasons(rows), _metrics(rows)]
    if document.transfer:
        blocks += ["## Trained on one, tested on another", _transfer(document)]
    blocks += ["## Data", HASHES, _data(document)]
    blocks += ["## Weights and machines", *_machines(document)]
    blocks += ["## Commands", _commands(document)]
    return "\n\n".join(block for block in blocks if block) + "\n"


HEADER = ["method", "published", "ours", "protocol", "difference", "verdict", "seeds", "hours"]
HEADER += [PROTOCOLS["best_on_val"], PROTOCOLS["final"]]
ALIGN = "lrrlrlrrrr"


def render_verdicts(rows: Sequence[Row]) -> str:
    """Renders the table of verdicts of the methods on one benchmark."""
    return markdown.table(HEADER, map(verdict_cells, rows), align=ALIGN, pad=True)


def render_text(document: Document) -> str:
    """Renders the tables of verdicts for a terminal."""
    blocks = []
    for dataset in distinct(row.dataset for row in document.rows):
        cells = [verdict_cells(row) for row in document.rows if row.dataset == dataset]
        lines = ["  ".join(line).rstrip() for line in markdown.pad_columns([HEADER, *cells], ALIGN)]
        blocks.append("\n".join([f"{datasets.label(dataset)}: R@1, text to image", *lines]))
    return "\n\n".join(blocks)


def verdict_cells(row: Row) -> list[str]:
    """Returns the cells of a row in the table of verdicts."""
    difference = row.difference.get(METRIC)
    return [
        method_name(row.method),
        f"{row.published[METRIC]:.2f}" if row.published else MISSING,
        format_spread(row.score),
        PROTOCOLS[row.protocol],
        MISSING if difference is None else f"{difference:+.2f}",
        row.verdict,
        format_seeds(row),
        MISSING if row.hours is None else format_hours(row.hours),
        *(format_spread(row.ours.get(name, {}).get(METRIC)) for name in ("best_on_val", "final")),
    ]


def method_name(method: str) -> str:
    """Returns the name of a method as papers write it."""
    return METHOD_NAMES.get(method, method)


def format_spread(spread: Spread | None) -> str:
    """Formats a spread, or that there is none."""
    return MISSING if spread is None else str(spread)


def format_seeds(row: Row) -> str:
    """Formats the number of seeds: `3` if all are done, else `1 of 3` or `1 of 3, 2 failed`."""
    done = f"{row.seeds}" if row.done == row.seeds else f"{row.done} of {row.seeds}"
    return f"{done}, {row.failed} failed" if row.failed else done


def _reasons(rows: Sequence[Row]) -> list[str]:
    """Returns a sentence for each reason why results are not comparable."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.verdict == NOT_COMPARABLE:
            reasons.setdefault(row.reason, []).append(method_name(row.method))
    return [f"Not comparable with the papers: {', '.join(names)}: {why}." for why, names in reasons.items()]


def _metrics(rows: Sequence[Row]) -> str:
    """Renders all published metrics, each as `published: ours`, where there are some."""
    keys = ("R1", "R5", "R10", "mAP")
    body = []
    for row in rows:
        cells = []
        for key in keys:
            published, ours = row.published.get(key), row.ours.get(row.protocol, {}).get(key)
            cells += [MISSING if published is None else f"{published:.2f}", format_spread(ours)]
        body.append([method_name(row.method), *cells, row.source or MISSING])
    header = ["method"]
    for key in keys:
        header += [f"{key.replace('R', 'R@')}, published", "ours"]
    return markdown.table([*header, "published in"], body, align="l" + "rr" * len(keys) + "l", pad=True)


def _transfer(document: Document) -> str:
    """Renders the scores of models on benchmarks that they were not trained on."""
    rows = [
        [
            method_name(one.method),
            datasets.label(one.trained_on),
            datasets.label(one.tested_on),
            *(str(one.ours[key]) for key in ("R1", "R5", "R10", "mAP")),
        ]
        for one in document.transfer
    ]
    header = ["method", "trained on", "tested on", "R@1", "R@5", "R@10", "mAP"]
    table = markdown.table(header, rows, align="lllrrrr", pad=True)
    note = (
        "The model of each seed that is best on val of its own benchmark, or the last one without a val "
        "split. No published numbers are recorded for this table."
    )
    return f"{note}\n\n{table}"


def _data(document: Document) -> str:
    rows = [
        [datasets.label(name), copy.annotation, f"`{copy.annotation_sha256}`", *_images(copy)]
        for name, copy in document.data.items()
    ]
    header = ["data set", "annotation", "its SHA-256", "images", "MB", "SHA-256 of their list", "size"]
    return markdown.table(header, rows, align="lllrrll", pad=True)


def _images(copy: Copy) -> list[str]:
    size = copy.subset or "official"
    return [f"{copy.images:,}", f"{copy.image_bytes / 1e6:,.1f}", f"`{copy.images_sha256}`", size]


def _machines(document: Document) -> list[str]:
    lines = []
    if document.weights is not None:
        revision = document.weights.get("revision")
        name = f"{document.weights['name']}{f' at {revision}' if revision else ''}"
        lines.append(f"- CLIP: {name}, SHA-256 `{document.weights.get('sha256')}`")
    hashes = distinct(hash_ for row in document.rows for hash_ in row.weights_sha256)
    others = [hash_ for hash_ in hashes if document.weights and hash_ != document.weights.get("sha256")]
    lines += [f"- some runs were trained on other weights: SHA-256 `{hash_}`" for hash_ in others]
    for machine in distinct(one for row in document.rows for one in row.environments):
        versions = ", ".join(f"{name} {version}" for name, version in machine.get("versions", {}).items())
        lines.append(f"- {machine.get('devices')} x {machine.get('device')}: {versions}")
    return ["\n".join(lines) or "No run is complete yet."]


def _commands(document: Document) -> str:
    lines = [document.command]
    for row in document.rows:
        lines += ["", f"# {method_name(row.method)} on {datasets.label(row.dataset)}", *row.commands]
    return "\n".join(["```sh", *lines, "```"])
