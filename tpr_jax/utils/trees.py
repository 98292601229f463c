"""Nested dicts of arrays: flat and back, and laid one over another."""

from collections.abc import Mapping


def flatten(tree: Mapping, prefix: str = "") -> dict:
    """Nested dicts of arrays -> `{"outer/inner": array}`."""
    flat = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def unflatten(flat: Mapping) -> dict:
    """The inverse of `flatten`."""
    tree: dict = {}
    for path, value in flat.items():
        *folders, last = path.split("/")
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = value
    return tree


def merge(first: Mapping, second: Mapping) -> dict:
    """Both trees in one; where both have a leaf, `second`'s holds. Collections split in two come together."""
    return {
        key: merge(first[key], second[key])
        if key in first and key in second and isinstance(second[key], Mapping)
        else second.get(key, first.get(key))
        for key in first | second
    }
