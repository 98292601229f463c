"""Says what the scores of a run depend on: its backbone, and data that differs from the plain benchmark."""

from collections.abc import Mapping

from tpr_jax.data import datasets
from tpr_jax.utils.plural import counted


def remarks(results: Mapping) -> list[str]:
    """Returns a sentence for each thing that a reader must know to compare the scores with others.

    Args:
      results: the contents of results.json; missing entries are left out.
    """
    data = results.get("data") or {}
    found = [_backbone(results.get("backbone") or {}), _few_shot(data.get("few_shot") or {})]
    found += [_noisy(data.get("noisy") or {})]
    found += [_mixed(entry) for entry in data.get("mixed") or ()]
    name = datasets.label(results.get("dataset", ""))
    found += [f"A subset of {name}: {line}." for line in data.get("subset") or ()]
    found += [_in_two_splits(data.get("in_two_splits") or {})]
    found += [_skipped((results.get("skipped") or {}).get("count", 0))]
    return [sentence for sentence in found if sentence]


def _backbone(backbone: Mapping) -> str:
    if not backbone.get("name"):
        return ""
    revision = backbone.get("revision")
    return f"Backbone: {backbone['name']}{f', revision {revision[:10]}' if revision else ''}."


def _few_shot(drawn: Mapping) -> str:
    if not drawn:
        return ""
    sizes = f"{counted(drawn['images'], 'image')} and {counted(drawn['captions'], 'caption')}"
    return f"Few-shot: trained on {drawn['identities']:,} of {drawn['of_identities']:,} identities, {sizes}."


def _noisy(drawn: Mapping) -> str:
    if not drawn:
        return ""
    shuffled = f"{drawn['captions']:,} of {counted(drawn['of_captions'], 'training caption')} were shuffled"
    return f"Noisy: {shuffled}, {drawn['mismatched']:,} are with another person's image."


def _mixed(entry: Mapping) -> str:
    return f"Also trained on {datasets.label(entry['dataset'])}, with weight {entry['weight']:g}."


def _in_two_splits(numbers: Mapping) -> str:
    kinds = [("identities", "identity", "identities"), ("photos", "photo", "photos")]
    counts = [counted(numbers[key], *nouns) for key, *nouns in kinds if numbers.get(key)]
    verb = "is" if sum(numbers.values()) == 1 else "are"
    return f"{' and '.join(counts)} {verb} in two splits." if counts else ""


def _skipped(count: int) -> str:
    return (
        f"{counted(count, 'photo')} could not be read and {'was' if count == 1 else 'were'} skipped."
        if count
        else ""
    )
