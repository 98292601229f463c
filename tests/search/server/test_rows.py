"""Rows in requests: the snapshot that has them, and how long their images may be kept."""

import pytest
from fastapi import HTTPException

from tests import served
from tpr_jax.search.query.search import open_searcher
from tpr_jax.search.server import rows
from tpr_jax.search.server.live import LiveIndex


def test_rows_belong_to_a_version(tiny, tmp_path):
    live = LiveIndex(open_searcher(served.make_index(tmp_path, tiny["clip"])))
    assert rows.find_snapshot(live, None) is live.current
    assert rows.find_snapshot(live, live.current.version) is live.current
    with pytest.raises(HTTPException, match="the index has changed since this row was found") as error:
        rows.find_snapshot(live, "another")
    assert error.value.status_code == 404
    assert rows.no_such_row(live.current).detail == "the index has rows 0 to 13"


def test_only_images_of_a_version_are_kept():
    assert rows.cache_headers("ab") == {"cache-control": "private, max-age=3600"}
    assert rows.cache_headers(None) == {"cache-control": "private, no-cache"}
