"""The table of data sets: default folders and official counts."""

import pytest

from tpr_jax.data import datasets, mini_pedes
from tpr_jax.data.datasets import DATASETS, Counts, count_deviations
from tpr_jax.errors import UserError

OFFICIAL = {name: dataset.counts for name, dataset in DATASETS.items() if dataset.counts}


def test_default_folders():
    assert datasets.data_folder("mini_pedes", "") == mini_pedes.bundled_dir()
    assert datasets.data_folder("cuhk_pedes", "") == "data/CUHK-PEDES"
    assert datasets.data_folder("icfg_pedes", "") == "data/ICFG-PEDES"
    assert datasets.data_folder("rstp_reid", "") == "data/RSTPReid"
    assert datasets.data_folder("mini_pedes", "/else/where") == "/else/where"


def test_labels_rendered_data():
    assert {name: datasets.label(name) for name in ("mini_pedes", "cuhk_pedes", "folder", "mine")} == {
        "mini_pedes": "MiniPEDES, rendered",
        "cuhk_pedes": "CUHK-PEDES",
        "folder": "own data",
        "mine": "mine",
    }


def test_custom_data_needs_a_folder():
    with pytest.raises(UserError, match=r"config.data_dir is missing"):
        datasets.data_folder("folder", "")


def test_totals_match_the_papers():
    """The totals are published beside the splits' numbers."""
    totals = {name: tuple(map(sum, zip(*splits.values(), strict=True))) for name, splits in OFFICIAL.items()}
    assert totals["cuhk_pedes"] == (13_003, 40_206, 80_440)
    assert totals["icfg_pedes"] == (4_102, 54_522, 54_522)
    assert totals["rstp_reid"] == (4_101, 20_505, 41_010)
    assert totals["ufine6926"] == (6_926, 26_206, 52_412)


def test_a_whole_copy_has_no_count_deviations():
    for name, official in OFFICIAL.items():
        assert count_deviations(name, official) == []
    parts = {"train": Counts(4_926, 20_000, 40_000), "test": Counts(2_000, 6_206, 12_412)}
    assert count_deviations("ufine6926", parts) == []
    assert count_deviations("folder", parts) == []


def test_describes_each_split_that_differs():
    found = dict(OFFICIAL["cuhk_pedes"], val=Counts(999, 3_078, 6_158))
    (line,) = count_deviations("cuhk_pedes", found)
    assert line == (
        "val has 999 identities, 3,078 images, 6,158 captions; "
        "officially 1,000 identities, 3,078 images, 6,158 captions"
    )
    del found["val"]
    (line,) = count_deviations("cuhk_pedes", found)
    assert line.startswith("val has 0 identities")
    extra = dict(OFFICIAL["icfg_pedes"], val=Counts(1, 2, 3))
    assert [line.split()[0] for line in count_deviations("icfg_pedes", extra)] == ["val"]
