"""Less or worse training data on purpose: few identities, or captions that belong to other pictures."""

from dataclasses import replace

import numpy as np

from tpr_jax.data.records import Records, caption_pairs, keep_images
from tpr_jax.utils.seeds import check_seed

# The last words of the streams: see `pipeline` for the others. The draws depend on nothing but their seed.
_FEW, _NOISY = 6, 7


def few_shot(records: Records, fraction: float, seed: int) -> Records:
    """The images of a random fraction of the identities, at least one, with all their captions.

    Of the same seed a smaller fraction's identities are among a larger one's.
    """
    people = np.unique(records.pids)
    number = max(1, round(fraction * len(people)))
    chosen = np.random.default_rng([check_seed(seed), 0, _FEW]).permutation(people)[:number]
    return keep_images(records, np.isin(records.pids, chosen))


def noisy(records: Records, fraction: float, seed: int) -> Records:
    """A random fraction of the captions changes places, by a random permutation among themselves.

    This is the noisy correspondence of RDE (CVPR 2024): a caption takes over the picture and the identity of
    the place where it comes to stand, so that what a loss sees is wrong without a sign. By chance a caption
    may keep its place or stay with its own person: `mismatched` counts those that did not.
    """
    captions = caption_pairs(records)[1]
    rng = np.random.default_rng([check_seed(seed), 0, _NOISY])
    places = rng.permutation(len(captions))[: round(fraction * len(captions))]
    moved = list(captions)
    for place, taken_from in zip(places.tolist(), rng.permutation(places).tolist(), strict=True):
        moved[place] = captions[taken_from]
    ends = np.cumsum([len(own) for own in records.captions]).tolist()
    starts = [0, *ends[:-1]]
    return replace(records, captions=[moved[a:b] for a, b in zip(starts, ends, strict=True)])


def reduce(records: Records, config) -> tuple[Records, dict]:
    """A training split as the config wants it, and what was done, for results.json.

    Of the config are read `few_shot`, `few_shot_seed`, `noisy_fraction` and `noise_seed`; the fraction of
    captions is of those that the few identities have. Says in a line each what there is now. The facts are
    empty where nothing was asked for; else `few_shot` has the numbers that are left and the identities there
    were, `noisy` how many captions were shuffled, and how many of them stand beside a stranger's picture.
    """
    facts = {}
    if config.few_shot:
        before = len(np.unique(records.pids))
        records = few_shot(records, config.few_shot, config.few_shot_seed)
        left = {
            "identities": len(np.unique(records.pids)),
            "images": len(records.image_paths),
            "captions": sum(map(len, records.captions)),
        }
        asked = {"fraction": config.few_shot, "seed": config.few_shot_seed}
        facts["few_shot"] = {**asked, **left, "of_identities": before}
        print(
            f"few-shot: {left['identities']:,} of {before:,} identities of {records.name} "
            f"({left['images']:,} images, {left['captions']:,} captions), seed {config.few_shot_seed}"
        )
    if config.noisy_fraction:
        right = records
        records = noisy(right, config.noisy_fraction, config.noise_seed)
        total = sum(map(len, records.captions))
        shuffled, wrong = round(config.noisy_fraction * total), mismatched(right, records)
        asked = {"fraction": config.noisy_fraction, "seed": config.noise_seed}
        facts["noisy"] = {**asked, "captions": shuffled, "mismatched": wrong, "of_captions": total}
        print(
            f"noisy: {shuffled:,} of {total:,} captions of {records.name} shuffled, {wrong:,} now with "
            f"another person's picture, seed {config.noise_seed}"
        )
    return records, facts


def mismatched(right: Records, shuffled: Records) -> int:
    """How many captions stand with an identity that none of the same words belongs to."""
    _, captions, pids = caption_pairs(right)
    own = set(zip(captions, pids.tolist(), strict=True))
    _, captions, pids = caption_pairs(shuffled)
    return sum(pair not in own for pair in zip(captions, pids.tolist(), strict=True))
