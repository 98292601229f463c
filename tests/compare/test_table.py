"""The tables of a comparison: every value worked by hand from the outcomes."""

import csv
import io

import pytest

from tpr_jax.compare import table as compare_table
from tpr_jax.compare.outcome import RunOutcome
from tpr_jax.compare.table import summarize


def outcome(r1, **changes):
    scores = {"t2i": {"R1": r1, "R5": r1 + 10, "R10": r1 + 20, "mAP": r1 + 1, "mINP": r1 - 1}}
    scores["i2t"] = {key: 2 * value for key, value in scores["t2i"].items()}
    numbers = {
        "steps": 200,
        "trainable_params": 1_000,
        "total_params": 8_000,
        "seconds_per_step": 0.5,
        "memory_bytes": 2_000_000_000,
        "saved_bytes": 4_000,
    }
    return RunOutcome("done", scores, **(numbers | changes))


FAILED, MISSING = RunOutcome("failed"), RunOutcome("missing")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def spread(row, key):
    """Returns (mean, deviation) of a metric."""
    return row.scores[key].mean, row.scores[key].deviation


def test_mean_and_sample_deviation():
    # 4, 7 and 13: mean 8, squared deviations 16 + 1 + 25 = 42, divided by n - 1 = 2: 21.
    row = summarize("a", "mini_pedes", [outcome(4.0), outcome(7.0), outcome(13.0)])
    assert spread(row, "R1") == pytest.approx((8.0, 21**0.5))
    assert spread(row, "R5") == pytest.approx((18.0, 21**0.5)) and spread(row, "mINP") == pytest.approx(
        (7.0, 21**0.5)
    )
    assert (row.seeds, row.done, row.failed) == (3, 3, 0)


def test_costs_are_the_mean_time_and_the_highest_memory():
    outcomes = [
        outcome(1.0, seconds_per_step=0.2, memory_bytes=5),
        outcome(1.0, seconds_per_step=0.4, memory_bytes=9),
        outcome(1.0, seconds_per_step=None, memory_bytes=None),
    ]
    row = summarize("a", "mini_pedes", outcomes)
    assert row.seconds_per_step == pytest.approx(0.3) and row.memory_bytes == 9
    unknown = summarize("a", "mini_pedes", [outcome(1.0, seconds_per_step=None, memory_bytes=None)])
    assert unknown.seconds_per_step is None and unknown.memory_bytes is None


def test_says_what_the_scores_depend_on():
    few, backbone, other = "Few-shot: trained on 5.", "Backbone: clip-mini.", "Backbone: b."
    rows = [
        summarize(
            "a", "mini_pedes", [outcome(1.0, remarks=(backbone, few)), outcome(2.0, remarks=(backbone, few))]
        ),
        summarize("b", "mini_pedes", [outcome(1.0, remarks=(other, few))]),
        summarize("c", "mini_pedes", [outcome(1.0, remarks=(other, few)), MISSING]),
        summarize("d", "mini_pedes", [FAILED]),
    ]
    lines = [f"a: {backbone}", few, f"b, c: {other}"]
    for text in (compare_table.render_markdown(rows), compare_table.render_text(rows)):
        assert text.endswith("\n\n" + "\n\n".join(lines) + "\n")


def test_counts_the_seeds_that_a_remark_holds_for():
    skipped = "2 photos could not be read."
    three = [outcome(1.0, remarks=("Backbone: b.",)) for _ in range(2)]
    three.append(outcome(1.0, remarks=("Backbone: b.", skipped)))
    row = summarize("a", "mini_pedes", [*three, MISSING])
    assert row.remarks == ("Backbone: b.", f"1 of 3 seeds: {skipped}")
    (line,) = csv.DictReader(io.StringIO(compare_table.render_csv([row])))
    assert line["remarks"] == f"Backbone: b. 1 of 3 seeds: {skipped}"


def test_renders_markdown():
    rows = [
        summarize("dm_adapter", "mini_pedes", [outcome(4.0), outcome(7.0), outcome(13.0)]),
        summarize("one", "mini_pedes", [outcome(5.125, steps=100), FAILED, MISSING]),
        summarize("two", "mini_pedes", [outcome(1.0), outcome(1.0, steps=150), MISSING]),
        summarize("none", "mini_pedes", [FAILED, FAILED, FAILED]),
        summarize("zero", "mini_pedes", [outcome(2.0, trainable_params=0, saved_bytes=0)]),
    ]
    lines = compare_table.render_markdown(rows).splitlines()
    assert lines[0] == "### MiniPEDES, rendered: text to image" and lines[1] == ""
    assert len({len(line) for line in lines[2:9]}) == 1  # padded
    head, rule, *body = map(cells, lines[2:9])
    assert head == [
        *("config", "seeds", "steps", "R@1", "R@5", "R@10", "mAP", "mINP"),
        *("trained", "share", "s/step", "memory", "file"),
    ]
    assert rule == ["---"] + ["---:"] * 12
    assert body[0] == [
        *("dm_adapter", "3", "200", "8.00 ± 4.58", "18.00 ± 4.58", "28.00 ± 4.58", "9.00 ± 4.58"),
        *("7.00 ± 4.58", "1,000", "12.50 %", "0.5", "2 GB", "4 kB"),
    ]
    assert body[1][:4] == ["one", "1 of 3, 1 failed", "100", "5.12"]  # no deviation of one run
    assert body[2][:4] == ["two", "2 of 3", "150–200", "1.00 ± 0.00"]
    assert body[3] == ["none", "0 of 3, 3 failed"] + ["–"] * 11
    assert (body[4][8], body[4][9], body[4][12]) == ("0", "0.00 %", "0 B")
    assert "mean ± sample standard deviation (n - 1) over the seeds" in lines[-1]


def test_each_data_set_has_its_own_table():
    rows = [
        summarize(name, dataset, [outcome(3.0)])
        for name, dataset in (("a", "mini_pedes"), ("a:cuhk_pedes", "cuhk_pedes"), ("b", "mini_pedes"))
    ]
    lines = compare_table.render_markdown(rows).splitlines()
    first = [cells(line)[0] for line in lines if line.startswith("| ")]
    assert first == ["config", "---", "a", "b", "config", "---", "a:cuhk_pedes"]
    titles = [line for line in lines if line.startswith("###")]
    assert titles == ["### MiniPEDES, rendered: text to image", "### CUHK-PEDES: text to image"]


def test_image_to_text_has_its_own_scores_and_table():
    outcomes = [outcome(4.0), outcome(7.0)]
    rows = [summarize("a", "mini_pedes", outcomes, direction) for direction in ("t2i", "i2t")]
    assert spread(rows[0], "R1") == pytest.approx((5.5, 4.5**0.5))
    assert spread(rows[1], "R1") == pytest.approx((11, 18**0.5))
    lines = compare_table.render_markdown(rows).splitlines()
    titles = [line for line in lines if line.startswith("###")]
    assert titles == ["### MiniPEDES, rendered: text to image", "### MiniPEDES, rendered: image to text"]
    body = [cells(line) for line in lines if line.startswith("| a ")]
    assert [line[3] for line in body] == ["5.50 ± 2.12", "11.00 ± 4.24"]
    assert body[0][8:] == body[1][8:]  # the costs
    both = list(csv.DictReader(io.StringIO(compare_table.render_csv(rows))))
    assert [(row["direction"], row["R1_mean"]) for row in both] == [("t2i", "5.5"), ("i2t", "11.0")]


def test_renders_text_as_scores_and_costs():
    rows = [summarize("dm_adapter", "mini_pedes", [outcome(4.0), MISSING])]
    title, head, line, blank, costs_head, costs, *_ = compare_table.render_text(rows).splitlines()
    assert title == "MiniPEDES, rendered: text to image" and blank == ""
    assert head.split() == ["config", "seeds", "steps", "R@1", "R@5", "R@10", "mAP", "mINP"]
    assert line.split() == ["dm_adapter", *["1", "of", "2"], "200", "4.00", "14.00", "24.00", "5.00", "3.00"]
    assert costs_head.split() == ["config", "trained", "share", "s/step", "memory", "file"]
    assert costs.split() == ["dm_adapter", "1,000", "12.50", "%", "0.5", "2", "GB", "4", "kB"]
    assert len(head) == len(line) and max(map(len, compare_table.render_text(rows).splitlines())) <= 110


def test_csv_has_full_precision_and_empty_fields():
    rows = [
        summarize("a", "mini_pedes", [outcome(1 / 3), outcome(2 / 3)]),
        summarize("b,c", "mini_pedes", [MISSING, FAILED]),
    ]
    a, b = csv.DictReader(io.StringIO(compare_table.render_csv(rows)))
    assert float(a["R1_mean"]) == 0.5 and float(a["R1_sd"]) == pytest.approx(1 / 3 / 2**0.5, rel=1e-15)
    assert (a["config"], a["dataset"], a["steps_min"], a["steps_max"]) == ("a", "mini_pedes", "200", "200")
    assert (a["trainable_params"], a["total_params"], a["seconds_per_step"]) == ("1000", "8000", "0.5")
    assert (a["memory_bytes"], a["saved_bytes"]) == ("2000000000", "4000")
    assert (b["config"], b["seeds"], b["done"], b["failed"]) == ("b,c", "2", "0", "1")
    assert {b[key] for key in list(b)[6:]} == {""}


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (None, "–"),
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1 kB"),
        (4_096, "4.1 kB"),
        (999_700, "1000 kB"),
        (29_679_264, "29.7 MB"),
        (2_240_000_000, "2.24 GB"),
        (1_234_000_000_000, "1234 GB"),
    ],
)
def test_formats_bytes(size, words):
    assert compare_table.format_bytes(size) == words
