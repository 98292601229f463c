"""Flattens, unflattens and merges nested dicts of arrays.

`flax.traverse_util` has the first two as well, but Flax is imported below `models/` only.
"""

from collections.abc import Mapping


def flatten(tree: Mapping, prefix: str = "") -> dict:
    """Converts nested dicts to `{"outer/inner": leaf}`; drops empty dicts."""
    flat = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def unflatten(flat: Mapping) -> dict:
    """Inverts `flatten`."""
    tree: dict = {}
    for path, value in flat.items():
        *outer_keys, last_key = path.split("/")
        subtree = tree
        for key in outer_keys:
            subtree = subtree.setdefault(key, {})
        subtree[last_key] = value
    return tree


def merge(first: Mapping, second: Mapping) -> dict:
    """Merges two trees; where both have a leaf, the one of `second` is used."""
    return {
        key: merge(first[key], second[key])
        if key in first and key in second and isinstance(second[key], Mapping)
        else second.get(key, first.get(key))
        for key in {**first, **second}
    }
