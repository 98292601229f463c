"""The options of `--rerank`: their names, what they need, and that each setting of their grids counts."""

import inspect

import numpy as np
import pytest

from tpr_jax.errors import UserError
from tpr_jax.metrics import rerank
from tpr_jax.metrics.rerank.options import OPTIONS


def features() -> rerank.Features:
    """Draws 30 captions of 15 images of 5 people, around the people, and a bank of 40 captions."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(5, 8))
    images = np.repeat(np.arange(15), 2)

    def near(people):
        return (centers[people] + rng.normal(size=(len(people), 8))).astype(np.float32)

    return rerank.Features(
        query=near(images % 5),
        query_images=images,
        query_pids=images % 5,
        gallery=near(np.arange(15) % 5),
        gallery_pids=np.arange(15) % 5,
        bank=near(np.arange(40) % 5),
    )


def test_names():
    assert rerank.parse_names("all") == list(OPTIONS)
    assert rerank.parse_names("qb_norm, nnn,") == ["nnn", "qb_norm"]
    assert rerank.parse_names("nnn,nnn") == ["nnn"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nnm", "--rerank 'nnm' is unknown: did you mean 'nnn'? choose from: all, k_reciprocal, nnn,"),
        ("nnn,qbnorm", "--rerank 'qbnorm' is unknown: did you mean 'qb_norm'? choose from: all, "),
        ("xyzzy", "--rerank 'xyzzy' is unknown: choose from: all, k_reciprocal"),
        ("", "--rerank names no option: choose from: all, k_reciprocal"),
        (" , ", "--rerank names no option: choose from: all, k_reciprocal"),
    ],
)
def test_unknown_names(text, message):
    with pytest.raises(UserError) as error:
        rerank.parse_names(text)
    assert str(error.value).startswith(message) and str(error.value).count("choose from") == 1


@pytest.mark.parametrize("name", OPTIONS)
def test_every_setting_of_a_grid_counts(name):
    """No two settings give equal scores, and the first ones are the defaults of the function."""
    option, given = OPTIONS[name], features()
    found = [option.rank(given, **settings).scores.dense() for settings in option.grid]
    for i, one in enumerate(found):
        assert np.isfinite(one).all()
        assert not any(np.array_equal(one, other) for other in found[:i]), option.grid[i]
    assert not np.array_equal(found[0], rerank.cosines(given.query, given.gallery).dense())


@pytest.mark.parametrize("name", OPTIONS)
def test_what_an_option_says_it_needs(name):
    option, given = OPTIONS[name], features()
    other_bank = rerank.Features(**{**vars(given), "bank": given.bank[:3]})
    scores = [option.rank(one).scores.dense() for one in (given, other_bank)]
    assert np.array_equal(*scores) == (not option.needs_bank)
    if option.own_protocol:
        assert len(scores[0]) == 15 and option.rank(given).query_pids.tolist() == list(np.arange(15) % 5)
        return
    first = {key: vars(given)[key][:4] for key in ("query", "query_images", "query_pids")}
    fewer = rerank.Features(**{**vars(given), **first})
    alone = option.rank(fewer).scores.dense()
    assert np.allclose(alone, scores[0][:4], atol=1e-5) == (not option.joint)


def test_notes():
    assert {name: option.note for name, option in OPTIONS.items() if option.note} == {
        "dual_softmax": "uses all queries jointly",
        "captions": "own protocol: one query per image",
    }


def test_settings_are_those_of_the_functions():
    functions = {
        "k_reciprocal": rerank.k_reciprocal,
        "nnn": rerank.nearest_neighbor_normalization,
        "inverted_softmax": rerank.inverted_softmax,
        "qb_norm": rerank.qb_norm,
        "query_expansion": rerank.expand_queries,
        "neighbor_gallery": rerank.fuse_neighbors,
        "dual_softmax": rerank.dual_softmax,
        "dual_softmax_bank": rerank.dual_softmax,
    }
    for name, function in functions.items():
        parameters = inspect.signature(function).parameters.values()
        keywords = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        assert {frozenset(settings) for settings in OPTIONS[name].grid} == {frozenset(keywords)}
