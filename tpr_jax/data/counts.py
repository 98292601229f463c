"""How many identities, images and captions a data set has, and should have."""

from collections.abc import Mapping
from typing import NamedTuple

from tpr_jax.data.records import Records


class Counts(NamedTuple):
    """What there is in a split, or in all of them together."""

    identities: int
    images: int
    captions: int

    def __str__(self) -> str:
        return f"{self.identities:,} identities, {self.images:,} images, {self.captions:,} captions"


# As the data sets' authors give them; those of UFine6926 publish the totals only.
OFFICIAL = {
    "cuhk_pedes": {
        "train": Counts(11_003, 34_054, 68_126),
        "val": Counts(1_000, 3_078, 6_158),
        "test": Counts(1_000, 3_074, 6_156),
    },
    "icfg_pedes": {
        "train": Counts(3_102, 34_674, 34_674),
        "test": Counts(1_000, 19_848, 19_848),
    },
    "rstp_reid": {
        "train": Counts(3_701, 18_505, 37_010),
        "val": Counts(200, 1_000, 2_000),
        "test": Counts(200, 1_000, 2_000),
    },
    "ufine6926": {"all": Counts(6_926, 26_206, 52_412)},
}


def count(splits: Mapping[str, Records]) -> dict[str, Counts]:
    """What each split holds."""
    return {
        name: Counts(
            len(set(records.pids.tolist())),
            len(records.image_paths),
            sum(map(len, records.captions)),
        )
        for name, records in splits.items()
    }


def deviations(dataset: str, found: Mapping[str, Counts]) -> list[str]:
    """One line a split that differs from the official counts; none where there are no such counts."""
    if dataset not in OFFICIAL:
        return []
    official, found = OFFICIAL[dataset], dict(found)
    if "all" in official and found:
        found = {"all": Counts(*map(sum, zip(*found.values(), strict=True)))}
    lines = []
    for name in dict.fromkeys((*official, *found)):
        here, wanted = found.get(name, Counts(0, 0, 0)), official.get(name, Counts(0, 0, 0))
        if here != wanted:
            lines.append(f"{name} has {here}; officially {wanted}")
    return lines
