"""Tables of models by data sets, every value from the cells that go in."""

import csv
import io

from tpr_jax.cross import table as cross_table


def scores(first):
    t2i = {key: first + i for i, key in enumerate(("R1", "R5", "R10", "mAP", "mINP"))}
    return {"t2i": t2i, "i2t": {key: value / 2 for key, value in t2i.items()}}


def cell(name, trained_on, tested_on, first):
    return {"name": name, "trained_on": trained_on, "tested_on": tested_on, "test": scores(first)}


CELLS = [
    cell("runs/a", ["cuhk_pedes"], "cuhk_pedes", 70.0),
    cell("runs/a", ["cuhk_pedes"], "rstp_reid", 40.125),
    cell("runs/b", ["rstp_reid", "folder"], "cuhk_pedes", 30.0),
    cell("clip|x", [], "mini_pedes", 5.0),
]


def words(line):
    return [word.strip() for word in line.strip("|").split(" | ")]


def test_rows_are_trained_on_and_columns_tested_on():
    lines = cross_table.markdown(CELLS).splitlines()
    assert lines[0] == "### text to image" and lines[1] == ""
    head, rule, a, b = map(words, lines[2:6])
    assert head == ["trained on", "model", "CUHK-PEDES", "RSTPReid"] and rule == ["---"] * 4
    own, other = "**70.00 / 71.00 / 72.00 / 73.00 / 74.00**", "40.12 / 41.12 / 42.12 / 43.12 / 44.12"
    assert a == ["CUHK-PEDES", "runs/a", own, other]
    assert b == ["RSTPReid + own data", "runs/b", "30.00 / 31.00 / 32.00 / 33.00 / 34.00", "–"]
    assert len({len(line) for line in lines[2:6]}) == 1
    assert lines[7] == "### image to text"
    assert words(lines[11])[3] == "20.06 / 20.56 / 21.06 / 21.56 / 22.06"


def test_rendered_numbers_never_stand_beside_real_ones():
    lines = cross_table.markdown(CELLS).splitlines()
    start = lines.index("### MiniPEDES, rendered: text to image")
    assert words(lines[start + 2]) == ["trained on", "model", "MiniPEDES, rendered"]
    assert lines[start + 4].startswith("| –          | clip\\|x | 5.00 / 6.00 /")
    assert not any("MiniPEDES" in line for line in lines[:start])
    only = cross_table.markdown(CELLS[3:])
    assert only.startswith("### MiniPEDES, rendered: text to image") and only.count("###") == 2


def test_csv_has_all_digits():
    rows = list(csv.DictReader(io.StringIO(cross_table.comma_separated(CELLS))))
    assert len(rows) == 8
    assert [rows[2][key] for key in ("model", "trained_on", "tested_on", "direction", "R1")] == [
        *("runs/a", "cuhk_pedes", "rstp_reid", "t2i", "40.125")
    ]
    assert rows[5]["trained_on"] == "rstp_reid+folder" and rows[5]["mINP"] == "17.0"
