"""Results as the terminal shows them."""

from tpr_jax.search.format import format_results

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
