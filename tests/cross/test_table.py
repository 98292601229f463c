"""Tables of models by data sets."""

import csv
import io

from tpr_jax.cross import table as cross_table


def scores(first):
    t2i = {key: first + i for i, key in enumerate(("R1", "R5", "R10", "mAP", "mINP"))}
    return {"t2i": t2i, "i2t": {key: value / 2 for key, value in t2i.items()}}


def cell(name, trained_on, tested_on, first):
    return cross_table.Cell(name, tuple(trained_on), tested_on, scores(first))


CELLS = [
    cell("runs/a", ["cuhk_pedes"], "cuhk_pedes", 70.0),
    cell("runs/a", ["cuhk_pedes"], "rstp_reid", 40.125),
    cell("runs/b", ["rstp_reid", "folder"], "cuhk_pedes", 30.0),
    cell("clip|x", [], "mini_pedes", 5.0),
]


def words(line):
    return [word.strip() for word in line.strip("|").split(" | ")]


def test_rows_are_models_and_columns_are_data_sets():
    lines = cross_table.render_markdown(CELLS).splitlines()
    assert lines[0] == "### text to image" and lines[1] == ""
    head, rule, a, b = map(words, lines[2:6])
    assert head == ["trained on", "model", "CUHK-PEDES", "RSTPReid"] and rule == ["---"] * 4
    own, other = "**70.00 / 71.00 / 72.00 / 73.00 / 74.00**", "40.12 / 41.12 / 42.12 / 43.12 / 44.12"
    assert a == ["CUHK-PEDES", "runs/a", own, other]
    assert b == ["RSTPReid + own data", "runs/b", "30.00 / 31.00 / 32.00 / 33.00 / 34.00", "–"]
    assert len({len(line) for line in lines[2:6]}) == 1
    assert lines[7] == "### image to text"
    assert words(lines[11])[3] == "20.06 / 20.56 / 21.06 / 21.56 / 22.06"


def test_synthetic_data_has_its_own_tables():
    lines = cross_table.render_markdown(CELLS).splitlines()
    start = lines.index("### MiniPEDES, rendered: text to image")
    assert words(lines[start + 2]) == ["trained on", "model", "MiniPEDES, rendered"]
    assert lines[start + 4].startswith("| –          | clip\\|x | 5.00 / 6.00 /")
    assert not any("MiniPEDES" in line for line in lines[:start])
    only = cross_table.render_markdown(CELLS[3:])
    assert only.startswith("### MiniPEDES, rendered: text to image") and only.count("###") == 2


def test_csv_has_full_precision():
    rows = list(csv.DictReader(io.StringIO(cross_table.render_csv(CELLS))))
    assert len(rows) == 8
    assert [rows[2][key] for key in ("model", "trained_on", "tested_on", "direction", "R1")] == [
        *("runs/a", "cuhk_pedes", "rstp_reid", "t2i", "40.125")
    ]
    assert rows[5]["trained_on"] == "rstp_reid+folder" and rows[5]["mINP"] == "17.0"
