"""The options of `--rerank`: what each computes, which settings are tried on val, and what it needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from tpr_jax.errors import UserError, shown
from tpr_jax.metrics.rerank import captions, hubs, neighbors, reciprocal
from tpr_jax.metrics.rerank.scores import Scores, cosines
from tpr_jax.utils.suggest import nearest


@dataclass(frozen=True)
class Features:
    """The features of a split, and the bank.

    Attributes:
      query: the captions.
      query_images: the image of each caption.
      query_pids: the identity of each caption.
      gallery: the images.
      gallery_pids: their identities.
      bank: captions of the training split; None if no option asks for it.
    """

    query: Float[np.ndarray, "q e"]
    query_images: Int[np.ndarray, " q"]
    query_pids: Int[np.ndarray, " q"]
    gallery: Float[np.ndarray, "g e"]
    gallery_pids: Int[np.ndarray, " g"]
    bank: Float[np.ndarray, "n e"] | None = None


class Ranking(NamedTuple):
    """Scores, and the identity of each query."""

    scores: Scores
    query_pids: Int[np.ndarray, " q"]


@dataclass(frozen=True)
class Option:
    """One way to change a ranking after training.

    Attributes:
      title: what it is, for tables.
      rank: `(features, **settings) -> Ranking`.
      grid: the settings that are tried on val; the first are used without a val split.
      needs_bank: whether it compares with the captions of the training split.
      joint: whether the score of a query depends on the other queries.
      own_protocol: whether its queries are not single captions.
    """

    title: str
    rank: Callable[..., Ranking]
    grid: Sequence[dict[str, float]] = ({},)
    needs_bank: bool = False
    joint: bool = False
    own_protocol: bool = False

    @property
    def note(self) -> str:
        """Why the numbers are not those of single, independent queries; empty if they are."""
        if self.own_protocol:
            return "own protocol: one query per image"
        return "uses all queries jointly" if self.joint else ""


def grid(**values: Sequence[float]) -> list[dict[str, float]]:
    """Returns all combinations of the values of each setting."""
    return [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]


def _each_query(rank: Callable[..., Scores]) -> Callable[..., Ranking]:
    def ranking(features: Features, **settings) -> Ranking:
        return Ranking(rank(features.query, features.gallery, **settings), features.query_pids)

    return ranking


def _with_bank(rank: Callable[..., Scores]) -> Callable[..., Ranking]:
    def ranking(features: Features, **settings) -> Ranking:
        scores = rank(features.query, features.gallery, features.bank, **settings)
        return Ranking(scores, features.query_pids)

    return ranking


def _fused_captions(features: Features) -> Ranking:
    query, pids = captions.fuse_captions(features.query, features.query_images, features.query_pids)
    return Ranking(cosines(query, features.gallery), pids)


# Cosines of trained models differ by hundredths, so the temperatures do too.
TEMPERATURES = (0.05, 0.01, 0.02, 0.1, 0.2)
OPTIONS = {
    "k_reciprocal": Option(
        "k-reciprocal re-ranking",
        _each_query(reciprocal.k_reciprocal),
        grid(k1=(20, 10, 6), k2=(6, 3, 1), weight=(0.3, 0.03, 0.1)),
    ),
    "nnn": Option(
        "nearest-neighbor normalization",
        _with_bank(hubs.nearest_neighbor_normalization),
        grid(k=(16, 1, 4, 64), alpha=(0.75, 0.25, 0.5, 1.0)),
        needs_bank=True,
    ),
    "inverted_softmax": Option(
        "inverted softmax",
        _with_bank(hubs.inverted_softmax),
        grid(temperature=TEMPERATURES),
        needs_bank=True,
    ),
    "qb_norm": Option("QB-Norm", _with_bank(hubs.qb_norm), grid(temperature=TEMPERATURES), needs_bank=True),
    "query_expansion": Option(
        "query expansion",
        _each_query(neighbors.expand_queries),
        grid(k=(3, 1, 2, 5), alpha=(3.0, 0.0, 1.0, 6.0)),
    ),
    "neighbor_gallery": Option(
        "neighbor-fused gallery",
        _each_query(neighbors.fuse_neighbors),
        grid(k=(2, 1, 4), weight=(1.0, 0.25, 0.5, 2.0)),
    ),
    "dual_softmax_bank": Option(
        "dual softmax, training captions",
        _with_bank(hubs.dual_softmax),
        grid(temperature=TEMPERATURES),
        needs_bank=True,
    ),
    "dual_softmax": Option(
        "dual softmax, test captions",
        _each_query(hubs.dual_softmax),
        grid(temperature=TEMPERATURES),
        joint=True,
    ),
    "captions": Option("captions of an image averaged", _fused_captions, own_protocol=True),
}


def parse_names(text: str, flag: str = "--rerank") -> list[str]:
    """Returns the options that a flag names, in the order of `OPTIONS`: `all`, or names joined by commas.

    Raises:
      UserError: a name is unknown, or there is none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = ("all", *OPTIONS)
    choices = f"choose from: {', '.join(known)}"
    if not names:
        raise UserError(f"{flag} names no option: {choices}")
    for name in names:
        if name not in known:
            hint = nearest(name, known)
            hint = hint if hint == choices else f"{hint} {choices}"
            raise UserError(f"{flag} {shown(name)} is unknown: {hint}")
    return [name for name in OPTIONS if name in names or "all" in names]
