"""Groups results that show one person at one moment, such as near-duplicates from one camera."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float16, Int

from tpr_jax.search.query.sightings import Sighting

DEFAULT_THRESHOLD = 0.95  # minimum cosine of two near-duplicates
# Photos of one place within so many seconds need only this cosine. Of 200 photos of MiniPEDES, each with a
# copy shifted by up to 8 %, up to 15 % brighter or darker, and compressed again, 85 % of the pairs reach 0.95
# with clip-mini, and 98 % reach 0.85; of the pairs of two people, 0.03 % and 1.7 %.
MOMENT_SECONDS, MOMENT_THRESHOLD = 2.0, 0.85
_MAX_DEPTH = 4096

Group = list[tuple[int, float]]  # (row, score), best first


def grouped_top_k(
    search: Callable[[int], tuple[np.ndarray, np.ndarray]],
    vectors: Float16[np.ndarray, "n e"],
    k: int,
    threshold: float = DEFAULT_THRESHOLD,
    *,
    describe: Callable[[Sequence[int]], Sequence[Sighting]] = lambda rows: [Sighting("")] * len(rows),
) -> list[Group]:
    """Returns the best k groups of photos.

    Goes down the ranking: a photo joins the first group that it belongs to, see `_Groups`, or starts a new
    one. Stops when group k + 1 starts, or after 4,096 photos.

    Args:
      search: k -> (scores, rows) of the best k photos.
      vectors: L2-normalized vectors of all photos.
      k: number of groups.
      threshold: minimum cosine of two photos of a group.
      describe: rows -> what is known of these photos besides their features.
    """
    depth = 4 * k
    while True:
        scores, rows = search(depth)
        groups = _group(vectors[rows].astype(np.float32), rows, scores, describe(rows.tolist()), threshold, k)
        if len(groups) > k or len(rows) < depth or depth >= _MAX_DEPTH:
            return groups[:k]
        depth = min(4 * depth, _MAX_DEPTH)


def _group(
    feats: Float[np.ndarray, "r e"],
    rows: Int[np.ndarray, " r"],
    scores: Float[np.ndarray, " r"],
    sightings: Sequence[Sighting],
    threshold: float,
    k: int,
) -> list[Group]:
    groups = _Groups(np.zeros((0, feats.shape[1]), np.float32), threshold)
    for feat, row, score, sighting in zip(feats, rows.tolist(), scores.tolist(), sightings, strict=True):
        number = groups.find(feat, sighting)
        groups.add(number, (row, score), feat, sighting)
        if len(groups.members) > k:
            break
    return groups.members


@dataclass
class _Groups:
    """The groups so far; the first photo of each, its best one, is its leader.

    A photo belongs to a group with

    - the same person, or the same track of the same camera;
    - a leader whose cosine with it is at least `threshold`;
    - a leader whose cosine with it is at least `MOMENT_THRESHOLD`, and a member of the same place within
      `MOMENT_SECONDS`.

    If the table names people, two different ones are never in one group.
    """

    leaders: Float[np.ndarray, "g e"]
    threshold: float
    members: list[Group] = field(default_factory=list)
    people: list[object] = field(default_factory=list)  # the person of each group, None if not known
    number_of: dict[object, int] = field(default_factory=dict)  # person or track -> group
    moments: dict[object, list[Sighting]] = field(default_factory=dict)  # by group, place and time

    def find(self, feat: Float[np.ndarray, " e"], sighting: Sighting) -> int | None:
        """Returns the number of the first group that a photo belongs to."""
        numbers = [self.number_of[key] for key in _keys(sighting) if key in self.number_of]
        cosines = self.leaders @ feat
        for number in np.flatnonzero(cosines >= min(self.threshold, MOMENT_THRESHOLD)).tolist():
            person = self.people[number]
            if person and sighting.person and person != sighting.person:
                continue
            if cosines[number] >= self.threshold or self._has_moment(number, sighting):
                numbers.append(number)
                break
        return min(numbers, default=None)

    def add(
        self,
        number: int | None,
        member: tuple[int, float],
        feat: Float[np.ndarray, " e"],
        sighting: Sighting,
    ) -> None:
        """Adds a photo to a group, or as the leader of a new one."""
        if number is None:
            number = len(self.members)
            self.leaders = np.concatenate([self.leaders, feat[None]])
            self.members.append([])
            self.people.append(None)
        self.members[number].append(member)
        self.people[number] = self.people[number] or sighting.person
        for key in _keys(sighting):
            self.number_of.setdefault(key, number)
        if sighting.seconds is not None:
            moment = (number, sighting.place, _interval(sighting.seconds))
            self.moments.setdefault(moment, []).append(sighting)

    def _has_moment(self, number: int, sighting: Sighting) -> bool:
        """Returns whether a group has photos of the same place and moment, and no other box of the photo."""
        if sighting.seconds is None:
            return False
        first = _interval(sighting.seconds) - 1
        near = [self.moments.get((number, sighting.place, first + i), []) for i in range(3)]
        others = [one for moment in near for one in moment]
        gaps = [abs(one.seconds - sighting.seconds) for one in others if one.seconds is not None]
        return min(gaps, default=np.inf) <= MOMENT_SECONDS and all(
            one.path != sighting.path for one in others
        )


def _keys(sighting: Sighting) -> list:
    return [(name, key) for name, key in (("person", sighting.person), ("track", sighting.track)) if key]


def _interval(seconds: float) -> int:
    return int(seconds // MOMENT_SECONDS)
