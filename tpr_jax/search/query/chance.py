"""Tells how a score compares with chance: with the scores of made-up descriptions in the same photos.

A cosine alone says little: how high it gets depends on the model, the photos and the words. 256 fixed short
descriptions of people are therefore scored with all photos of the index. The chance of a result is the share
of these pairs that score as high, and that of a query is the share of descriptions whose best photo scores
as high as its own. The scores are kept in `chance.npz` of the index; they are computed again when the
vectors have changed.
"""

import contextlib
import hashlib
import json
import os
import random
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float16

from tpr_jax.data.mini_pedes import phrases
from tpr_jax.errors import UserError
from tpr_jax.search.index.names import CHANCE
from tpr_jax.search.index.store import Index, check_vectors, encoder_fingerprint
from tpr_jax.search.query.combine import combine
from tpr_jax.search.query.selection import Selection
from tpr_jax.utils.files import write_whole

COUNT = 256  # descriptions
MIN_PHOTOS = 50  # below this, the best of so few photos says nothing
# Photos up to which conditions and several descriptions are compared with scores of their own.
MAX_PHOTOS = 100_000
UNLIKELY = 0.9  # the chance of a query from which the person is unlikely to be here
_LEVELS = 1001  # quantiles that stand for the scores of all pairs
_BLOCK = 16384
_KEPT = 32  # baselines of conditions in memory
_COLORS = ("black", "white", "gray", "navy blue", "blue", "light blue", "red", "green")
_COLORS += ("yellow", "orange", "pink", "purple", "brown", "beige")
_BAGS = ("backpack", "handbag", "shoulder bag")
_THINGS = ("t-shirt", "shirt", "sweater", "hoodie", "jacket", "coat", "dress")
_THINGS += ("trousers", "jeans", "shorts", "skirt", *_BAGS)


def descriptions() -> list[str]:
    """Returns the made-up descriptions, always the same, in the words of MiniPEDES' captions.

    Each names one thing, as the shortest queries do: the best photo of a longer text scores higher, so that
    the best photo of a short query would look like chance beside longer descriptions.
    """
    rng, found = random.Random(0), dict[str, None]()  # NumPy's may change between versions
    while len(found) < COUNT:
        found[_description(rng)] = None
    return list(found)


def _description(rng: random.Random) -> str:
    kind = rng.choice(_THINGS)
    thing = f"{rng.choice(_COLORS)} {rng.choice(phrases.GARMENT_WORDS[kind])}"
    noun = rng.choice(phrases.SUBJECTS[rng.choice(("man", "woman"))])
    worn = thing if kind in phrases.PLURAL else phrases.with_article(thing)
    text = f"{phrases.with_article(noun)} {'carrying' if kind in _BAGS else 'wearing'} {worn}."
    return text[0].upper() + text[1:]


class Baseline(NamedTuple):
    """The scores of the made-up descriptions, both in ascending order.

    Attributes:
      best: of each description, that of its best photo.
      pairs: quantiles of those of all pairs of a description and a photo.
    """

    best: Float[np.ndarray, " q"]
    pairs: Float[np.ndarray, " l"]

    def of_query(self, best: float) -> float:
        """Returns the share of descriptions whose best photo scores at least as high."""
        return _share_from(self.best, best)

    def of_result(self, score: float) -> float:
        """Returns the share of pairs that score at least as high, in steps of a thousandth."""
        return _share_from(self.pairs, score)


def _share_from(ordered: Float[np.ndarray, " n"], value: float) -> float:
    return float(1 - np.searchsorted(ordered, np.float32(value), side="left") / len(ordered))


def score_photos(
    vectors: Float16[np.ndarray, "n e"],
    feats: Float[np.ndarray, "q e"],
    allowed: Bool[np.ndarray, " n"] | None = None,
) -> Baseline:
    """Scores descriptions, given by their features, with all photos, or with the allowed ones."""
    rows = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    best = np.full(len(feats), -np.inf, np.float32)
    # Every k-th score, so that at most about 16 million are sorted.
    step, kept = max(1, len(rows) * len(feats) // 2**24), []
    for start in range(0, len(rows), _BLOCK):
        scores = feats.astype(np.float32) @ vectors[rows[start : start + _BLOCK]].astype(np.float32).T
        best = np.maximum(best, scores.max(axis=1))
        kept.append(scores.ravel()[::step])
    pairs = np.quantile(np.concatenate(kept), np.linspace(0, 1, _LEVELS)).astype(np.float32)
    return Baseline(np.sort(best), pairs)


@dataclass(frozen=True)
class _Form:
    """What a query consists of: number of descriptions, of those it is without, and the condition."""

    texts: int = 1
    without: int = 0
    where: str | None = None


class Baselines:
    """The baselines of an index for queries of each form, computed when they are first needed.

    Args:
      index: the index.
      encode: encodes texts as unit vectors, with the model of the index.
    """

    def __init__(self, index: Index, encode: Callable[[list[str]], np.ndarray]):
        self._index, self._encode, self._lock = index, encode, threading.Lock()
        self._feats: np.ndarray | None = None
        self._found: OrderedDict[_Form, Baseline] = OrderedDict()

    def find(
        self, texts: int, without: int, where: str | None = None, selection: Selection | None = None
    ) -> Baseline | None:
        """Returns the baseline for a query.

        Args:
          texts: number of descriptions of the query.
          without: number of descriptions of what the person does not have.
          where: the condition.
          selection: the rows that meet it; by default all.

        Returns:
          The baseline; None if there are too few photos, or too many for one of the query's own.
        """
        count = selection.count if selection else len(self._index.vectors)
        form = _Form(texts, without, where)
        if count < MIN_PHOTOS or (form != _Form() and count > MAX_PHOTOS):
            return None
        with self._lock:
            if form not in self._found:
                self._found[form] = self._make(form, selection.mask() if selection else None)
                if len(self._found) > _KEPT:
                    self._found.popitem(last=False)
            return self._found[form]

    def _make(self, form: _Form, allowed: np.ndarray | None) -> Baseline:
        path, key, made = self._index.folder / CHANCE, _key(self._index), None
        if self._feats is None:
            self._feats, made = _read(path, key)
        if self._feats is None:
            self._feats = self._encode(descriptions())
        if form == _Form():
            if made is None:
                check_vectors(self._index)  # the scores are kept
                made = score_photos(self._index.vectors, self._feats)
                _write(path, key, self._feats, made)
            return made
        return score_photos(self._index.vectors, _combined(self._feats, form), allowed)


def _combined(feats: Float[np.ndarray, "q e"], form: _Form) -> Float[np.ndarray, "q e"]:
    """Combines each description with others as a query of this form does."""
    rows = []
    for i in range(len(feats)):
        others = np.roll(feats, -i, axis=0)
        vector = combine(others[: form.texts], others[form.texts : form.texts + form.without], None)
        rows.append(vector / max(float(np.linalg.norm(vector)), 1e-6))
    return np.stack(rows)


def _key(index: Index) -> dict[str, str]:
    """Returns what the content of `chance.npz` depends on, by part."""
    texts = hashlib.sha256("\n".join(descriptions()).encode()).hexdigest()
    model = [texts, encoder_fingerprint(index.info["model"])]
    path = index.folder / index.info["files"]["vectors"]
    try:
        status = os.stat(path)
        vectors = [path.name, status.st_size, status.st_mtime_ns]
    except OSError:  # replaced since it was opened
        vectors = ["gone"]
    return {"feats": json.dumps(model), "scores": json.dumps([model, vectors])}


def _read(path: Path, key: dict[str, str]) -> tuple[np.ndarray | None, Baseline | None]:
    """Returns the features of the descriptions, and their baseline, each None if it is of something else."""
    problems = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
    with contextlib.suppress(*problems), np.load(path, allow_pickle=False) as file:
        found = json.loads(str(file["key"]))
        if found["feats"] == key["feats"]:
            current = found["scores"] == key["scores"]
            return file["feats"], Baseline(file["best"], file["pairs"]) if current else None
    return None, None


def _write(path: Path, key: dict[str, str], feats: np.ndarray, scores: Baseline) -> None:
    """Keeps the baseline beside the index, where this user may write there."""

    def save(temporary: str) -> None:
        with open(temporary, "wb") as file:
            np.savez(file, key=json.dumps(key), feats=feats, best=scores.best, pairs=scores.pairs)

    with contextlib.suppress(UserError):
        write_whole(path, save)


def unlikely_note(chance: float) -> str:
    """Returns the note about a query whose best photo is no better than chance."""
    return (
        f"unlikely to be here: {100 * chance:.0f} % of made-up descriptions find a photo with as high a score"
    )
