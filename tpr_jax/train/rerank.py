"""Scores the options of `tpr_jax.metrics.rerank` on a run: settings chosen on val, test scored once."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from tpr_jax.metrics import rerank
from tpr_jax.metrics.retrieval import METRIC_KEYS
from tpr_jax.train.evaluate import EncodedSplit
from tpr_jax.utils.markdown import table


def score_options(
    encoded: Mapping[str, EncodedSplit],
    names: Sequence[str],
    encode_bank: Callable[[], Float[np.ndarray, "n e"]],
) -> dict[str, dict]:
    """Scores options on test, with the settings that are the best on val.

    Args:
      encoded: the encoded splits, "test" and, if there is one, "val".
      names: keys of `rerank.OPTIONS`.
      encode_bank: returns the features of the bank, the captions of the training split; called if needed.

    Returns:
      By name: `settings`, `chosen_on` ("val", or None for the default settings), `num_queries`, `bank` (the
      number of training captions in use), `joint` (whether a query's score depends on the others),
      `own_protocol` (whether queries are not single captions), `val` and `test`, {"t2i": metrics}.
    """
    bank = encode_bank() if any(rerank.OPTIONS[name].needs_bank for name in names) else None
    features = {split: _features(one, bank) for split, one in encoded.items()}
    return {name: _score_option(rerank.OPTIONS[name], features) for name in names}


def _features(split: EncodedSplit, bank: Float[np.ndarray, "n e"] | None) -> rerank.Features:
    return rerank.Features(
        query=split.query_feats,
        query_images=split.query_images,
        query_pids=split.query_pids,
        gallery=split.gallery_feats,
        gallery_pids=split.gallery_pids,
        bank=bank,
    )


def _score_option(option: rerank.Option, features: Mapping[str, rerank.Features]) -> dict:
    settings, chosen_on, on_val = option.grid[0], None, {}
    if "val" in features:
        tried = [_metrics(option, features["val"], one)[0] for one in option.grid]
        # The first of equals.
        best = max(range(len(tried)), key=lambda i: (tried[i]["R1"], tried[i]["mAP"]))
        settings, on_val = option.grid[best], {"val": {"t2i": tried[best]}}
        chosen_on = "val" if len(option.grid) > 1 else None
    on_test, num_queries = _metrics(option, features["test"], settings)
    bank = features["test"].bank
    return {
        "settings": settings,
        "chosen_on": chosen_on,
        "num_queries": num_queries,
        "bank": len(bank) if option.needs_bank and bank is not None else 0,
        "joint": option.joint,
        "own_protocol": option.own_protocol,
        **on_val,
        "test": {"t2i": on_test},
    }


def _metrics(option: rerank.Option, features: rerank.Features, settings: dict) -> tuple[dict, int]:
    """Returns (metrics, number of queries) of an option on a split."""
    ranking = option.rank(features, **settings)
    return (
        rerank.score_metrics(ranking.scores, ranking.query_pids, features.gallery_pids),
        len(ranking.query_pids),
    )


def options_table(plain: Mapping[str, float], scored: Mapping[str, dict]) -> str:
    """Returns a table of the plain scores on test and those of each option.

    Args:
      plain: the text-to-image metrics of the plain ranking.
      scored: the result of `score_options`.
    """
    rows = [["plain", *(f"{plain[key]:.2f}" for key in METRIC_KEYS), "", ""]]
    for name, one in scored.items():
        settings = " ".join(f"{key}={value:g}" for key, value in one["settings"].items())
        numbers = [f"{one['test']['t2i'][key]:.2f}" for key in METRIC_KEYS]
        rows.append([name, *numbers, settings, rerank.OPTIONS[name].note])
    return table(["test", *METRIC_KEYS, "settings", "note"], rows, align="lrrrrrll", pad=True)
