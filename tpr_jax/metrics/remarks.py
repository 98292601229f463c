"""Says what the scores of a run depend on: its backbone, and data that differs from the plain benchmark."""

from collections.abc import Mapping

from tpr_jax.data import datasets
from tpr_jax.utils.plural import counted


def remarks(results: Mapping) -> list[str]:
    """Returns a sentence for each thing that a reader must know to compare the scores with others.

    Args:
      results: the contents of results.json or eval.json; missing entries are left out.
    """
    data = results.get("data") or {}
    found = [_backbone(results.get("backbone") or {})]
    if _is_trained(results):
        found += _training(results, data)
    found += _splits(results.get("dataset", ""), data)
    found += [_in_two_splits(data.get("in_two_splits") or {}), _skipped(results.get("skipped") or {})]
    return [sentence for sentence in found if sentence]


def _is_trained(results: Mapping) -> bool:
    """Returns whether the model was trained; an evaluation of initial weights has no checkpoint."""
    return results.get("trainable_params") != 0 and results.get("checkpoint", "") is not None


def _training(results: Mapping, data: Mapping) -> list[str]:
    found = [_few_shot(data.get("few_shot") or {}), _noisy(data.get("noisy") or {})]
    found += [_mixed(entry) for entry in data.get("mixed") or ()]
    if teacher := results.get("teacher"):
        found.append(f"Distilled from {teacher}.")
    if decay := results.get("ema_decay"):
        found.append(f"The trained weights are an average over the steps, with decay {decay:g}.")
    return found


def _splits(dataset: str, data: Mapping) -> list[str]:
    name = datasets.label(dataset)
    found = [f"Not the official {name}: {line}." for line in data.get("subset") or ()]
    if folder := data.get("folder"):
        found.append(f"The data is that of {folder}, not the bundled one.")
    if dataset in datasets.DATASETS and datasets.DATASETS[dataset].split:
        number = ((data.get("counts") or {}).get("test") or {}).get("identities")
        found.append(
            f"{name} has no splits: test is its last {counted(number, 'identity', 'identities')}."
            if number
            else f"{name} has no splits: test is its last identities."
        )
    return found


def _backbone(facts: Mapping) -> str:
    if not facts.get("name"):
        return ""
    revision = facts.get("revision")
    words = [f"{facts['name']}{f', revision {revision[:10]}' if revision else ''}"]
    if names := facts.get("trained_on"):
        words.append(f"trained on {' and '.join(map(datasets.label, names))}")
    if size := facts.get("image_size"):
        words.append(f"images of {size[0]} x {size[1]} pixels")
    if length := facts.get("text_length"):
        words.append(f"texts of up to {length} tokens")
    start = "Initialized at random, in the form of" if facts.get("from_scratch") else "Backbone:"
    return f"{start} {', '.join(words)}."


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


def _skipped(skipped: Mapping) -> str:
    count, in_test = skipped.get("count"), skipped.get("test")
    if not count:
        return ""
    verb = "was" if count == 1 else "were"
    where = f", {in_test:,} of test, whose captions were left out" if in_test else ""
    return f"{counted(count, 'photo')} could not be read and {verb} skipped{where}."
