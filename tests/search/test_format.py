"""Results as the terminal shows them."""

from tpr_jax.search.format import format_build, format_left_out, format_results

PHOTO = {"row": 1, "score": 0.5, "path": "a.png", "box": None, "columns": {}}
TOTALS = {"count": 3, "matching": 3, "engine": "cpu", "notes": [], "encode_ms": 1.0, "search_ms": 2.0}


def test_a_group_says_how_often_it_was_seen():
    others = [{**PHOTO, "path": "b.png", "score": 0.4}]
    results = [
        {"rank": 1, **PHOTO, "group": others, "seen": "seen 2 times, 10:02 to 10:17"},
        {"rank": 2, **PHOTO, "path": "c.png", "group": []},
    ]
    assert format_results({**TOTALS, "results": results}).splitlines() == [
        "   1  0.5000  a.png",
        "      seen 2 times, 10:02 to 10:17:",
        "      0.4000  b.png",
        "   2  0.5000  c.png",
        "3 photos searched (cpu): 1 ms to encode the query, 2 ms to search",
    ]


def test_line_breaks_and_escape_codes_of_names_and_cells_are_escaped():
    """One line per photo, and nothing that a terminal obeys; blanks and letters of all languages stay."""
    columns = {"note": "red\x1b[31m", "a\nb": "写真\u30001"}
    other = {**PHOTO, "path": "tür\r.png"}
    results = [
        {"rank": 1, **PHOTO, "path": "new\nline.jpg", "columns": columns, "group": [other], "seen": "at x\n"}
    ]
    text = format_results({**TOTALS, "results": results, "notes": ["no a is\x07"]})
    assert text.splitlines() == [
        "   1  0.5000  new\\nline.jpg  note=red\\x1b[31m  a\\nb=写真\u30001",
        "      at x\\n:",
        "      0.5000  tür\\r.png",
        "3 photos searched (cpu): 1 ms to encode the query, 2 ms to search",
        "note: no a is\\x07",
    ]


def test_names_of_skipped_files_are_escaped():
    counts = {"count": 1, "encoded": 0, "kept": 1, "gone": 0, "encoding_seconds": 0.0, "seconds": 1.0}
    text = format_build({**counts, "skipped": [("a\x1b\n.jpg", "is damaged")], "left_out": {"b\n/": 1}})
    assert text.splitlines()[:2] == [
        "skipped: a\\x1b\\n.jpg: is damaged",
        "left out: 1 file or folder: b\\n/ (1)",
    ]


def test_patterns_that_matched_nothing_leave_nothing_out():
    assert format_left_out({"cam9/": 0}, 10) == []
    assert format_left_out({"cam9/": 0, "old": 2}, 10) == ["left out: 2 folders and files: old (2)"]
