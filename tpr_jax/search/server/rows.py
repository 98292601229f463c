"""Rows in requests: a row belongs to one version of the index."""

from typing import Annotated

from fastapi import HTTPException, Query
from fastapi import Path as PathParameter

from tpr_jax.search.server.live import LiveIndex, Snapshot

Row = Annotated[int, PathParameter(ge=0)]
Version = Annotated[
    str | None, Query(max_length=64, description="the version of the index that has this row")
]


def find_snapshot(live: LiveIndex, version: str | None) -> Snapshot:
    """Returns the snapshot of a version, by default the current one. Raises HTTPException 404."""
    snapshot = live.find(version)
    if snapshot is None:
        raise HTTPException(404, "the index has changed since this row was found: search again")
    return snapshot


def no_such_row(snapshot: Snapshot) -> HTTPException:
    """Returns the error for a row that a snapshot does not have."""
    return HTTPException(404, f"the index has rows 0 to {snapshot.count - 1}")


def cache_headers(version: str | None) -> dict[str, str]:
    """Returns the headers of an image: without a version, the row may become another photo's."""
    return {"cache-control": f"private, {'max-age=3600' if version else 'no-cache'}"}
