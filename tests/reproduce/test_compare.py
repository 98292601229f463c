"""The comparison of two reproductions, by values worked by hand."""

import dataclasses

import pytest

from tests.reproduce.made import COPY, document, not_run, row, spreads
from tpr_jax.compare.spread import Spread
from tpr_jax.reproduce import compare


@pytest.mark.parametrize(
    ("ours", "theirs", "agreement"),
    [
        ((70.0, 0.5), (70.9, 0.4), "within the spread"),  # 0.9 apart, and 0.5 + 0.4
        ((70.0, 0.5), (70.91, 0.4), "within 1 point"),
        ((70.0, 0.5), (69.0, 0.4), "within 1 point"),
        ((70.0, 0.5), (68.99, 0.4), "beyond 1 point"),
        ((70.0, 2.0), (73.0, 1.0), "within the spread"),  # seeds that vary this much say nothing
        ((70.0, None), (70.0, None), "within the spread"),
        ((70.0, None), (70.2, None), "within 1 point"),
        ((70.0, None), (71.5, None), "beyond 1 point"),
        ((70.0, 0.5), None, "theirs not yet run"),
        (None, (70.0, 0.5), "ours not yet run"),
        (None, None, "ours and theirs not yet run"),
    ],
)
def test_agreement(ours, theirs, agreement):
    scores = [score and Spread(*score, values=()) for score in (ours, theirs)]
    assert compare.agree(*scores) == agreement


@pytest.mark.parametrize(
    ("ours", "theirs", "found"),
    [
        ("a", "a", "same"),
        ("a", "b", "different"),
        (None, "a", "unknown"),
        ("a", None, "unknown"),
        ((), ("a",), "unknown"),
    ],
)
def test_hashes(ours, theirs, found):
    assert compare.same(ours, theirs) == found


def test_compares_every_row_of_either_document():
    mine = document(row(), row(method="cskt"), not_run(method="up_person"))
    near = row(ours={"best_on_test": spreads(71.5, 72.5, 73.5)})
    theirs = document(near, row(dataset="rstp_reid"))
    found = compare.compare(mine, theirs)
    assert [(one.method, one.dataset, one.agreement) for one in found] == [
        ("dm_adapter", "cuhk_pedes", "within the spread"),
        ("cskt", "cuhk_pedes", "theirs not yet run"),
        ("up_person", "cuhk_pedes", "ours and theirs not yet run"),
        ("dm_adapter", "rstp_reid", "ours not yet run"),
    ]
    assert found[0].difference == 0.5 and found[1].difference is None
    assert [(one.data, one.weights, one.recipe) for one in found] == [
        ("same", "same", "same"),
        ("same", "unknown", "unknown"),
        ("same", "unknown", "unknown"),
        ("unknown", "unknown", "unknown"),
    ]
    assert not any(one.is_apart for one in found)


@pytest.mark.parametrize(
    ("theirs", "data", "field"),
    [
        (row(), {"cuhk_pedes": dataclasses.replace(COPY, annotation_sha256="0" * 64)}, "data"),
        (row(), {"cuhk_pedes": dataclasses.replace(COPY, images_sha256="0" * 64)}, "data"),
        (row(weights_sha256=["0" * 64]), {"cuhk_pedes": COPY}, "weights"),
        (row(recipe_sha256="0" * 64), {"cuhk_pedes": COPY}, "recipe"),
        (row(ours={"best_on_test": spreads(81.0, 82.0, 83.0)}), {"cuhk_pedes": COPY}, "agreement"),
    ],
)
def test_anything_that_differs_is_told(theirs, data, field):
    (one,) = compare.compare(document(row()), document(theirs, data=data))
    differing = {"data", "weights", "recipe"} & {
        name for name, value in dataclasses.asdict(one).items() if value == "different"
    }
    assert differing == ({field} if field != "agreement" else set())
    assert (one.agreement == "beyond 1 point") == (field == "agreement") and one.is_apart


def test_the_table():
    theirs = document(row(ours={"best_on_test": spreads(60.0, 61.0, 62.0)}), row(method="cskt"))
    text = compare.render(compare.compare(document(row()), theirs), {"ours": "a.json", "theirs": "b.json"})
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[:2] == ["ours: a.json", "theirs: b.json"]
    cells = "72.00 ± 1.00 61.00 ± 1.00 -11.00 beyond 1 point same same same"
    assert f"DM-Adapter CUHK-PEDES {cells}" in lines
    assert "CSKT CUHK-PEDES – 72.00 ± 1.00 – ours not yet run same unknown unknown" in lines
