"""Compares two people's reproductions row by row.

Pure functions: documents in, text out.
"""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

from tpr_jax.compare.spread import Spread
from tpr_jax.data import datasets
from tpr_jax.reproduce.document import Document
from tpr_jax.reproduce.page import format_spread, method_name
from tpr_jax.reproduce.rows import TOLERANCE, Row
from tpr_jax.utils import markdown

MISSING = "–"
SPREAD, POINT, APART = "within the spread", "within 1 point", "beyond 1 point"
SAME, DIFFERENT, UNKNOWN = "same", "different", "unknown"
NOTE = (
    "R@1 by the protocol of the papers. Within the spread: the difference is at most the sum of both "
    "standard deviations. Data: the annotation and the list of images with their sizes; weights: the files "
    "of CLIP; recipe: the settings that affect a result."
)


@dataclass(frozen=True)
class Comparison:
    """One row in two reproductions.

    Attributes:
      method: the name of the config.
      dataset: the benchmark.
      ours: our score, None if there is none.
      theirs: their score, None if there is none.
      agreement: SPREAD, POINT or APART; or which of the two is missing.
      data: whether both copies of the benchmark are the same: SAME, DIFFERENT or UNKNOWN.
      weights: whether both were trained on the same weights.
      recipe: whether both have the same settings.
    """

    method: str
    dataset: str
    ours: Spread | None
    theirs: Spread | None
    agreement: str
    data: str
    weights: str
    recipe: str

    @property
    def difference(self) -> float | None:
        """Theirs minus ours, in points; None if one is missing."""
        return None if self.ours is None or self.theirs is None else self.theirs.mean - self.ours.mean

    @property
    def is_apart(self) -> bool:
        """Whether scores, data, weights or settings differ."""
        return self.agreement == APART or DIFFERENT in (self.data, self.weights, self.recipe)


def compare(ours: Document, theirs: Document) -> list[Comparison]:
    """Returns a comparison for each row of either document, ours first."""
    mine, others = ({(row.method, row.dataset): row for row in doc.rows} for doc in (ours, theirs))
    return [
        _compare_row(key, mine.get(key), others.get(key), (ours, theirs))
        for key in dict.fromkeys((*mine, *others))
    ]


def _compare_row(
    key: tuple[str, str], mine: Row | None, other: Row | None, documents: tuple[Document, Document]
) -> Comparison:
    method, dataset = key
    scores = [row.score if row else None for row in (mine, other)]
    copies = [document.data.get(dataset) for document in documents]
    hashes = [copy and (copy.annotation_sha256, copy.images_sha256) for copy in copies]
    weights = [tuple(row.weights_sha256) if row else None for row in (mine, other)]
    recipes = [row.recipe_sha256 if row else None for row in (mine, other)]
    return Comparison(
        *(method, dataset, *scores),
        agreement=agree(*scores),
        data=same(*hashes),
        weights=same(*weights),
        recipe=same(*recipes),
    )


def agree(ours: Spread | None, theirs: Spread | None) -> str:
    """Returns how far two scores agree.

    The difference counts as printed, with two digits.
    """
    if ours is None or theirs is None:
        missing = [name for name, score in (("ours", ours), ("theirs", theirs)) if score is None]
        return f"{' and '.join(missing)} not yet run"
    difference = abs(round(theirs.mean - ours.mean, 2))
    spread = round((ours.deviation or 0.0) + (theirs.deviation or 0.0), 2)
    if difference <= spread:
        return SPREAD
    return POINT if difference <= TOLERANCE else APART


def same(ours: object, theirs: object) -> str:
    """Returns whether two hashes are the same; unknown if one is missing."""
    if not ours or not theirs:
        return UNKNOWN
    return SAME if ours == theirs else DIFFERENT


def render(comparisons: list[Comparison], names: Mapping[str, str]) -> str:
    """Renders a comparison as a table for a terminal.

    Args:
      comparisons: the rows.
      names: `ours` and `theirs`, the paths of the two files.
    """
    header = ["method", "data set", "ours", "theirs", "difference", "", "data", "weights", "recipe"]
    rows = [header, *map(_cells, comparisons)]
    padded = markdown.pad_columns(rows, "llrrrllll")
    table = "\n".join("  ".join(row).rstrip() for row in padded)
    return f"ours: {names['ours']}\ntheirs: {names['theirs']}\n\n{table}\n\n{textwrap.fill(NOTE, 100)}"


def _cells(one: Comparison) -> list[str]:
    return [
        method_name(one.method),
        datasets.label(one.dataset),
        format_spread(one.ours),
        format_spread(one.theirs),
        MISSING if one.difference is None else f"{one.difference:+.2f}",
        *(one.agreement, one.data, one.weights, one.recipe),
    ]
