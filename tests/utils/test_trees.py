"""Nested dicts of arrays, worked by hand."""

from tpr_jax.utils.trees import flatten, merge, unflatten

TREE = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
FLAT = {"a/b": 1, "a/c/d": 2, "e": 3}


def test_flatten_and_unflatten():
    assert flatten(TREE) == FLAT and unflatten(FLAT) == TREE
    assert flatten({}) == unflatten({}) == {}


def test_merge_prefers_the_second():
    assert merge({"a": {"b": 1, "c": {"d": 5}}}, {"a": {"c": {"d": 2}}, "e": 3}) == TREE
    assert merge(TREE, {}) == merge({}, TREE) == TREE
    first, second = {"a": {"b": 1}}, {"a": {"c": 2}}
    assert merge(first, second) == {"a": {"b": 1, "c": 2}}
    assert (first, second) == ({"a": {"b": 1}}, {"a": {"c": 2}})
