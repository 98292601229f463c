"""Counts against the official ones."""

from tests import benchmark_folders
from tpr_jax.data.counts import OFFICIAL, Counts, count, deviations
from tpr_jax.data.records import load_all


def test_totals_are_those_that_the_papers_give():
    """The totals are published beside the splits' numbers."""
    totals = {name: tuple(map(sum, zip(*splits.values(), strict=True))) for name, splits in OFFICIAL.items()}
    assert totals["cuhk_pedes"] == (13_003, 40_206, 80_440)
    assert totals["icfg_pedes"] == (4_102, 54_522, 54_522)
    assert totals["rstp_reid"] == (4_101, 20_505, 41_010)
    assert totals["ufine6926"] == (6_926, 26_206, 52_412)


def test_a_whole_copy_has_no_deviations():
    for name, official in OFFICIAL.items():
        assert deviations(name, official) == []
    parts = {"train": Counts(4_926, 20_000, 40_000), "test": Counts(2_000, 6_206, 12_412)}
    assert deviations("ufine6926", parts) == []
    assert deviations("folder", parts) == []


def test_each_split_that_differs_is_told():
    found = dict(OFFICIAL["cuhk_pedes"], val=Counts(999, 3_078, 6_158))
    (line,) = deviations("cuhk_pedes", found)
    assert line == (
        "val has 999 identities, 3,078 images, 6,158 captions; "
        "officially 1,000 identities, 3,078 images, 6,158 captions"
    )
    del found["val"]
    (line,) = deviations("cuhk_pedes", found)
    assert line.startswith("val has 0 identities")
    extra = dict(OFFICIAL["icfg_pedes"], val=Counts(1, 2, 3))
    assert [line.split()[0] for line in deviations("icfg_pedes", extra)] == ["val"]


def test_counts_of_a_folder(tmp_path):
    splits = load_all(benchmark_folders.cuhk_pedes(tmp_path))
    assert count(splits) == {"train": (4, 8, 18), "val": (2, 4, 9), "test": (3, 6, 13)}
