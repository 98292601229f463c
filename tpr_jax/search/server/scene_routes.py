"""The routes of scenes: the frame or photo around a person, frames before and after, and the video itself.

GET /api/scenes/{row}           what there is          GET /api/scenes/{row}/moments      frames around it
GET /api/scenes/{row}/frame     the whole frame        GET /api/scenes/{row}/moments/{n}  one of them
GET, HEAD /api/scenes/{row}/video                      the file, or a range of it, where browsers can play it
"""

import hashlib
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from typing import TypeVar

import anyio
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import StreamingResponse

from tpr_jax.errors import UserError
from tpr_jax.search.server import scenes
from tpr_jax.search.server.live import LiveIndex
from tpr_jax.search.server.ranges import Part, Unsatisfiable, parse_range
from tpr_jax.search.server.rows import Row, Version, cache_headers, find_snapshot, no_such_row
from tpr_jax.search.server.schema import Error, Moments, SceneAnswer
from tpr_jax.search.server.threads import run_in_thread

MAX_DECODERS = 2  # frames decoded at the same time; the others wait, and other requests do not
MAX_WAITING = 60  # requests for frames; further ones are asked to retry
PIECE = 2**18  # bytes of a video that are read at once

T = TypeVar("T")

RESPONSES: dict[int | str, dict] = {
    404: {"model": Error, "description": "the index does not have this row, or it has no such scene"},
    410: {"model": Error, "description": "the video or photo is gone, or has changed since it was indexed"},
}
JPEG = {200: {"content": {"image/jpeg": {}}, "description": "JPEG without metadata"}}
VIDEO: dict[int | str, dict] = {
    code: {"content": {media_type: {} for media_type in scenes.PLAYABLE.values()}, "description": text}
    for code, text in ((200, "the whole file"), (206, "the range"))
}
VIDEO |= {416: {"model": Error, "description": "the file has no such range"}}


def add_scene_routes(app: FastAPI, live: LiveIndex) -> None:
    """Adds the routes to the application."""
    _add_frame_routes(app, _Decoder(live))
    _add_video_route(app, live)


class _Decoder:
    """Decodes frames in a few threads."""

    def __init__(self, live: LiveIndex):
        self._live, self._waiting = live, 0
        self._threads = anyio.CapacityLimiter(MAX_DECODERS)

    async def __call__(self, version: str | None, row: int, show: Callable[[scenes.Scene], T]) -> T:
        """Returns `show(scene)` of a row. Raises HTTPException 404, 410 or 503."""
        if self._waiting >= MAX_WAITING:
            raise HTTPException(503, "too many frames are waiting: try again soon", {"Retry-After": "2"})
        self._waiting += 1
        try:
            return await run_in_thread(lambda: show(_find(self._live, version, row)), limiter=self._threads)
        except scenes.GoneError as error:
            raise HTTPException(410, str(error)) from None
        finally:
            self._waiting -= 1


def _add_frame_routes(app: FastAPI, decode: _Decoder) -> None:
    @app.get("/api/scenes/{row}", summary="Where a person of the index was seen", responses=RESPONSES)
    async def scene(row: Row, v: Version = None) -> SceneAnswer:
        def describe(found: scenes.Scene) -> SceneAnswer:
            width, height = scenes.show_frame(found).size
            return SceneAnswer(
                kind="photo" if found.seconds is None else "video",
                box=list(found.box),
                width=width,
                height=height,
                seconds=found.seconds,
                before=scenes.BEFORE,
                after=scenes.AFTER,
                media_type=found.media_type,
            )

        return await decode(v, row, describe)

    @app.get(
        "/api/scenes/{row}/frame",
        summary="The whole frame or photo that shows a person of the index",
        response_class=Response,
        responses={**JPEG, **RESPONSES},
    )
    async def frame(row: Row, v: Version = None) -> Response:
        shown = await decode(v, row, scenes.show_frame)
        return Response(shown.jpeg, media_type="image/jpeg", headers=cache_headers(v))

    @app.get(
        "/api/scenes/{row}/moments",
        summary="The times of frames before and after a person of a video was seen",
        responses=RESPONSES,
    )
    async def moments(row: Row, v: Version = None) -> Moments:
        shown = await decode(v, row, _show_moments)
        return Moments(seconds=[one.seconds or 0.0 for one in shown])

    @app.get(
        "/api/scenes/{row}/moments/{number}",
        summary="One of these frames",
        response_class=Response,
        responses={**JPEG, **RESPONSES},
    )
    async def moment(row: Row, number: Row, v: Version = None) -> Response:
        shown = await decode(v, row, _show_moments)
        if number >= len(shown):
            raise HTTPException(404, f"there are moments 0 to {len(shown) - 1}")
        return Response(shown[number].jpeg, media_type="image/jpeg", headers=cache_headers(v))


def _add_video_route(app: FastAPI, live: LiveIndex) -> None:
    readers = anyio.CapacityLimiter(8)

    async def video(request: Request, row: Row, v: Version = None) -> Response:
        def find() -> scenes.Scene:
            found = _find(live, v, row)
            scenes.check_source(found.source)
            return found

        try:
            found = await run_in_thread(find, limiter=readers)
        except scenes.GoneError as error:
            raise HTTPException(410, str(error)) from None
        if found.media_type is None:
            raise HTTPException(404, "this row is of no video that browsers play: see its moments")
        return _send_video(request, found.source, found.media_type, readers, cache_headers(v))

    for method in ("GET", "HEAD"):
        app.add_api_route(
            "/api/scenes/{row}/video",
            video,
            methods=[method],
            summary="The video of a row, or a range of its bytes",
            response_class=Response,
            responses={**VIDEO, **RESPONSES},
            include_in_schema=method == "GET",
        )


def _find(live: LiveIndex, version: str | None, row: int) -> scenes.Scene:
    """Finds a scene. Raises HTTPException 404, and GoneError."""
    snapshot = find_snapshot(live, version)
    try:
        return scenes.find_scene(snapshot.searcher.index, snapshot.version, row)
    except IndexError:
        raise no_such_row(snapshot) from None
    except scenes.NoSceneError as error:
        raise HTTPException(404, str(error)) from None


def _show_moments(scene: scenes.Scene) -> tuple[scenes.Shown, ...]:
    if scene.seconds is None:
        raise HTTPException(404, "this row is of a photo, which has no moments")
    return scenes.show_moments(scene)


def _send_video(
    request: Request,
    source: scenes.Source,
    media_type: str,
    readers: anyio.CapacityLimiter,
    headers: dict[str, str],
) -> Response:
    size, time = source.stamp
    etag = f'"{hashlib.sha256(f"{size} {time}".encode()).hexdigest()[:16]}"'
    headers = {**headers, "accept-ranges": "bytes", "etag": etag, "content-type": media_type}
    headers["last-modified"] = formatdate(time / 1e9, usegmt=True)
    asked = request.headers.get("range")
    if request.headers.get("if-range", etag) not in (etag, headers["last-modified"]):
        asked = None  # a part of another version of the file would not fit
    try:
        part = parse_range(asked, size)
    except Unsatisfiable:
        raise HTTPException(
            416, f"the file has {size:,} bytes", {"content-range": f"bytes */{size}"}
        ) from None
    start, end = part or Part(0, size)
    if part:
        headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    headers["content-length"] = str(end - start)
    status = 206 if part else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return StreamingResponse(_read(source, start, end, readers), status, headers)


async def _read(
    source: scenes.Source, start: int, end: int, readers: anyio.CapacityLimiter
) -> AsyncIterator[bytes]:
    """Yields the bytes of a part; ends early if the file changes, so that the connection breaks."""
    # The file is open only while a piece is read: a client that pauses holds no file.
    while start < end:
        first, count = start, min(PIECE, end - start)
        try:
            piece = await run_in_thread(lambda: scenes.read_part(source, first, count), limiter=readers)  # noqa: B023
        except (scenes.GoneError, OSError, UserError):
            return
        if not piece:
            return
        yield piece
        start += len(piece)
