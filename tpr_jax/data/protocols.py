"""Reduces or corrupts the training data on purpose: few identities, or captions of other images."""

from dataclasses import replace

import numpy as np

from tpr_jax.data.records import Records, caption_pairs, select_images
from tpr_jax.utils.plural import counted
from tpr_jax.utils.seeds import check_seed

# The last word of each random stream; `pipeline` lists the others. The draws depend on their seed alone.
_FEW_SHOT_STREAM, _NOISY_STREAM = 6, 7


def few_shot(records: Records, fraction: float, seed: int) -> Records:
    """Keeps a random fraction of the identities, at least one, with all their images and captions.

    With the same seed, a smaller fraction's identities are a subset of a larger one's.
    """
    identities = np.unique(records.pids)
    number = max(1, round(fraction * len(identities)))
    rng = np.random.default_rng([check_seed(seed), 0, _FEW_SHOT_STREAM])
    return select_images(records, np.isin(records.pids, rng.permutation(identities)[:number]))


def noisy(records: Records, fraction: float, seed: int) -> Records:
    """Permutes a random fraction of the captions among themselves.

    This is the noisy correspondence of RDE (CVPR 2024): a caption gets the image and identity of its new
    position, so the labels that a loss sees are wrong. By chance a caption may keep its position or stay with
    its own person; `count_mismatched` counts those that did not.
    """
    captions = caption_pairs(records)[1]
    rng = np.random.default_rng([check_seed(seed), 0, _NOISY_STREAM])
    positions = rng.permutation(len(captions))[: round(fraction * len(captions))]
    permuted = list(captions)
    for position, source in zip(positions.tolist(), rng.permutation(positions).tolist(), strict=True):
        permuted[position] = captions[source]
    ends = np.cumsum([len(image_captions) for image_captions in records.captions]).tolist()
    starts = [0, *ends[:-1]]
    return replace(records, captions=[permuted[a:b] for a, b in zip(starts, ends, strict=True)])


def reduce(records: Records, config) -> tuple[Records, dict]:
    """Applies the config's `few_shot` and then its `noisy_fraction` to a training split.

    Prints a line for each.

    Args:
      records: the training split.
      config: `few_shot`, `few_shot_seed`, `noisy_fraction` and `noise_seed` are read.

    Returns:
      The reduced split, and a summary for results.json: `few_shot` has the remaining sizes and the original
      number of identities, `noisy` the number of shuffled captions and how many of them are now with another
      person's image. The summary has entries only for the protocols that the config uses.
    """
    summary = {}
    if config.few_shot:
        records, summary["few_shot"] = _apply_few_shot(records, config)
    if config.noisy_fraction:
        records, summary["noisy"] = _apply_noise(records, config)
    return records, summary


def _apply_few_shot(records: Records, config) -> tuple[Records, dict]:
    before = len(np.unique(records.pids))
    records = few_shot(records, config.few_shot, config.few_shot_seed)
    sizes = {
        "identities": len(np.unique(records.pids)),
        "images": len(records.image_paths),
        "captions": sum(map(len, records.captions)),
    }
    print(
        f"few-shot: {sizes['identities']:,} of {before:,} identities of {records.name} "
        f"({counted(sizes['images'], 'image')}, {counted(sizes['captions'], 'caption')}), "
        f"seed {config.few_shot_seed}"
    )
    settings = {"fraction": config.few_shot, "seed": config.few_shot_seed}
    return records, {**settings, **sizes, "of_identities": before}


def _apply_noise(records: Records, config) -> tuple[Records, dict]:
    shuffled = noisy(records, config.noisy_fraction, config.noise_seed)
    total = sum(map(len, shuffled.captions))
    number, mismatched = round(config.noisy_fraction * total), count_mismatched(records, shuffled)
    print(
        f"noisy: {number:,} of {total:,} captions of {records.name} shuffled, {mismatched:,} now with "
        f"another person's image, seed {config.noise_seed}"
    )
    settings = {"fraction": config.noisy_fraction, "seed": config.noise_seed}
    return shuffled, {**settings, "captions": number, "mismatched": mismatched, "of_captions": total}


def count_mismatched(original: Records, shuffled: Records) -> int:
    """Counts the captions whose identity has no caption of the same words in the original."""
    _, captions, pids = caption_pairs(original)
    matched = set(zip(captions, pids.tolist(), strict=True))
    _, captions, pids = caption_pairs(shuffled)
    return sum(pair not in matched for pair in zip(captions, pids.tolist(), strict=True))
