"""Groups of results by cosine, person, track and moment, on vectors made by hand."""

import numpy as np
import pytest

from tpr_jax.search.query.groups import MOMENT_SECONDS, grouped_top_k
from tpr_jax.search.query.sightings import Sighting

GATE, YARD = (("camera", 1),), (("camera", 2),)


def vectors_with_cosines(*cosines):
    """Returns vectors whose first one has these cosines with the others, which share nothing else."""
    rows = [np.eye(len(cosines) + 1)[0]]
    for i, cosine in enumerate(cosines, 1):
        row = np.zeros(len(cosines) + 1)
        row[0], row[i] = cosine, np.sqrt(1 - cosine**2)
        rows.append(row)
    return np.array(rows, np.float16)


def group_all(vectors, sightings, threshold=0.95, k=None):
    """Returns the rows of each group; the rows are ranked in their order."""
    count = len(vectors)

    def search(depth):
        rows = np.arange(min(depth, count))
        return 1 - rows / count, rows

    def describe(rows):
        return [sightings[row] for row in rows]

    groups = grouped_top_k(search, vectors, k or count, threshold, describe=describe)
    return [[row for row, _ in group] for group in groups]


def at(path, seconds, place=GATE, **given):
    return Sighting(path, place=place, seconds=seconds, **given)


def test_near_duplicates_a_second_apart_are_one_group():
    vectors = vectors_with_cosines(0.9, 0.9, 0.9, 0.9, 0.8, 0.9, 0.96)
    sightings = [
        at("leader", 10.0),
        at("a second later", 11.0),
        at("a minute later", 70.0),
        at("at another camera", 11.0, YARD),
        at("another box of it", 11.0),
        at("too different", 11.0),
        at("without a time", None),
        at("alike at any time", 500.0, YARD),
    ]
    assert group_all(vectors, sightings)[0] == [0, 1, 4, 7]
    sightings[4] = at("leader", 10.0)  # two boxes of one photo are two people
    sightings[1] = at("too late", 10.0 + MOMENT_SECONDS + 0.1)
    assert group_all(vectors, sightings)[0] == [0, 7]
    sightings[1] = at("just in time", 10.0 - MOMENT_SECONDS)
    assert group_all(vectors, sightings)[0] == [0, 1, 7]


def test_moments_continue_through_the_members_of_a_group():
    sightings = [at("a", 10.0), at("b", 11.5), at("c", 13.0), at("d", 16.0)]
    assert group_all(vectors_with_cosines(0.9, 0.9, 0.9), sightings) == [[0, 1, 2], [3]]


@pytest.mark.parametrize("kind", ["person", "track"])
def test_a_person_or_a_track_is_one_group_however_it_looks(kind):
    sightings = [
        Sighting(str(i), **{kind: value}) for i, value in enumerate([None, "x", "y", "x", "y", None])
    ]
    assert group_all(vectors_with_cosines(0, 0.1, 0.2, 0.3, 0.4), sightings) == [[0], [1, 3], [2, 4], [5]]


def test_two_people_are_never_one_group():
    sightings = [at("a", 1.0, person="x"), at("b", 1.5, person="y"), at("c", 2.0), at("d", 2.0, person="x")]
    assert group_all(vectors_with_cosines(0.99, 0.99, 0.1), sightings) == [[0, 2, 3], [1]]


def test_without_sightings_only_the_cosine_counts():
    vectors = vectors_with_cosines(0.9, 0.96, 0.94)
    assert group_all(vectors, [Sighting("")] * 4) == [[0, 2], [1], [3]]
    assert group_all(vectors, [Sighting("")] * 4, threshold=0.5) == [[0, 1, 2, 3]]


def test_goes_deeper_until_there_are_enough_groups():
    vectors = np.eye(50, dtype=np.float16)
    sightings = [Sighting(str(i), person="all the same" if i < 40 else i) for i in range(50)]
    assert group_all(vectors, sightings, k=3) == [list(range(40)), [40], [41]]
