"""The page reproduction.md, from documents made by hand."""

import dataclasses

from tests.reproduce.made import COPY, MACHINE, document, not_run, row
from tpr_jax.reproduce import page


def lines(*rows, **changes) -> list[str]:
    """Renders a document; returns its lines, with one space between the cells of a table."""
    return [" ".join(line.split()) for line in page.render(document(*rows, **changes)).splitlines()]


def test_verdicts():
    found = lines(row(), not_run(method="cskt"))
    assert found[0] == page.TITLE and "## CUHK-PEDES" in found
    assert (
        "| DM-Adapter | 72.17 | 72.00 ± 1.00 | best epoch on test | -0.17 | within 1 point | 3 | 12 | "
        "71.00 ± 1.00 | 70.00 ± 1.00 |" in found
    )
    assert "| CSKT | 72.17 | – | best epoch on test | – | not yet run | 0 of 3 | – | – | – |" in found
    assert (
        "| DM-Adapter | 72.17 | 72.00 ± 1.00 | 88.74 | 50.00 | – | 50.00 | – | 50.00 | a paper, table 3 |"
        in found
    )


def test_a_method_of_which_nothing_is_published():
    own = {"method": "tpr_peft", "published": {}, "difference": {}, "source": "", "verdict": "none published"}
    found = lines(row(**own))
    assert (
        "| tpr_peft | – | 72.00 ± 1.00 | best epoch on test | – | none published | 3 | 12 | "
        "71.00 ± 1.00 | 70.00 ± 1.00 |" in found
    )
    assert "| tpr_peft | – | 72.00 ± 1.00 | – | 50.00 | – | 50.00 | – | 50.00 | – |" in found


def test_each_benchmark_has_its_tables():
    other = row(dataset="rstp_reid")
    found = lines(row(), other, row(method="cskt"))
    assert [line for line in found if line.startswith("## ")][:2] == ["## CUHK-PEDES", "## RSTPReid"]
    text = page.render_text(document(row(), other, row(method="cskt")))
    assert text.split("\n\n")[1].startswith("RSTPReid: R@1, text to image\nmethod ")
    assert len(text.split("\n\n")[0].splitlines()) == 4


def test_failed_and_missing_seeds_are_counted():
    assert page.format_seeds(row()) == "3"
    assert page.format_seeds(row(done=1)) == "1 of 3"
    assert page.format_seeds(row(done=1, failed=2)) == "1 of 3, 2 failed"


def test_says_why_rows_are_not_comparable():
    short = {"verdict": "not comparable", "reason": "a short run (--quick)"}
    found = lines(row(**short), row(method="cskt", **short), row(method="up_person"))
    sentences = [line for line in found if line.startswith("Not comparable")]
    assert sentences == ["Not comparable with the papers: DM-Adapter, CSKT: a short run (--quick)."]


def test_data_weights_machines_and_commands():
    subset = dataclasses.replace(COPY, subset="test has 3 images")
    found = lines(row(weights_sha256=["3" * 64, "9" * 64]), data={"cuhk_pedes": COPY, "rstp_reid": subset})
    hashes = f"| `{'1' * 64}` | 40,206 | 1,234.6 | `{'2' * 64}`"
    assert f"| CUHK-PEDES | reid_raw.json {hashes} | official |" in found
    assert f"| RSTPReid | reid_raw.json {hashes} | test has 3 images |" in found
    assert f"- CLIP: openai/clip at abc, SHA-256 `{'3' * 64}`" in found
    assert f"- some runs were trained on other weights: SHA-256 `{'9' * 64}`" in found
    assert "- 2 x NVIDIA H200: jax 1.2, numpy 2.3" in found
    assert found[-5:] == [
        "python -m tpr_jax.reproduce --data cuhk_pedes=DIR",
        "",
        "# DM-Adapter on CUHK-PEDES",
        "python -m tpr_jax.main --config configs/dm_adapter.py:cuhk_pedes",
        "```",
    ]


def test_machines_are_listed_once():
    found = lines(row(), row(method="cskt", environments=[MACHINE, MACHINE | {"device": "A100"}]))
    assert [line for line in found if " x " in line and line.startswith("- ")] == [
        "- 2 x NVIDIA H200: jax 1.2, numpy 2.3",
        "- 2 x A100: jax 1.2, numpy 2.3",
    ]


def test_before_the_first_run():
    found = lines(not_run(), weights=None, transfer=[])
    assert "No run is complete yet." in found and "## Trained on one, tested on another" not in found


def test_the_table_across_benchmarks():
    found = lines(row())
    # 40 and 42: the mean is 41, the deviation the root of 2.
    assert "| DM-Adapter | CUHK-PEDES | RSTPReid | 41.00 ± 1.41 | 50.00 | 50.00 | 50.00 |" in found
