"""Search over HTTP: a page, a JSON API with its OpenAPI description, and Prometheus metrics.

GET  /                  the page                    GET  /api/index         the index and its columns
POST /api/search        a query as JSON             GET  /api/photos/{row}  a photo of the index, as JPEG
POST /api/search/photo  a photo, as the body or     GET  /api/scenes/{row}  its scene, see `scene_routes`
                        as a file of a form         GET  /metrics           GET  /openapi.json
                                                    GET  /healthz
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import anyio
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from tpr_jax import __version__
from tpr_jax.data.batches import worker_threads
from tpr_jax.errors import UserError
from tpr_jax.search.query.search import search
from tpr_jax.search.server import images
from tpr_jax.search.server.access_log import AccessLog, describe_query
from tpr_jax.search.server.accounts import USER_KEY, Accounts, RequireLogin
from tpr_jax.search.server.error_handlers import ERROR_RESPONSES, add_error_handlers
from tpr_jax.search.server.guard import Guard, Limits
from tpr_jax.search.server.live import LiveIndex, Snapshot
from tpr_jax.search.server.metrics import CONTENT_TYPE, ServerMetrics
from tpr_jax.search.server.rows import Row, cache_headers, find_snapshot, no_such_row
from tpr_jax.search.server.scene_routes import add_scene_routes
from tpr_jax.search.server.schema import (
    MAX_RESULTS,
    MAX_TEXT,
    About,
    Answer,
    Column,
    Error,
    Options,
    Question,
)
from tpr_jax.search.server.threads import run_in_thread
from tpr_jax.search.server.uploads import UploadReader, parse_upload

MAX_UPLOADS = 32  # complete photos in memory at the same time
MAX_DECODERS = 2  # uploads decoded at the same time; a large one takes hundreds of megabytes
MAX_WAITING = 200  # searches; further clients are asked to retry
PAGE = Path(__file__).parent / "page"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
EXAMPLES = (
    "a woman in a red coat with a white bag",
    "a man with a yellow backpack and blue jeans",
    "a person in a black jacket and gray trousers",
    "a girl with long hair in a green dress",
)

_BINARY = {"type": "string", "format": "binary"}
NOT_FOUND = {
    404: {"model": Error, "description": "the index does not have this photo, or it is gone or has changed"}
}
PHOTO_BODY = {
    "requestBody": {
        "required": True,
        "description": f"the bytes of an image ({', '.join(images.FORMATS)}), or a form with one file, whose "
        "other fields are options as in the query string",
        "content": {
            "application/octet-stream": {"schema": _BINARY},
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"file": _BINARY}, "required": ["file"]}
            },
        },
    }
}


def make_app(
    live: LiveIndex,
    limits: Limits,
    accounts: Accounts | None = None,
    access_log: AccessLog | None = None,
    playback: bool = True,
) -> Guard:
    """Returns the ASGI application that searches an index within the `limits`.

    Args:
      live: the index.
      limits: the limits of one client.
      accounts: who may use the application; by default everybody.
      access_log: where queries are logged; by default nowhere.
      playback: whether whole frames, photos and videos are served, not only the people in them. They never
        are where heads are blurred, because they show others too.
    """
    playback = playback and not live.blur_faces
    app = FastAPI(
        title="tpr_jax search",
        version=__version__,
        description="Search photos of people by text. Scores are cosines.",
        docs_url=None,  # they would load scripts from other sites
        redoc_url=None,
        responses={code: {"model": Error, "description": text} for code, text in ERROR_RESPONSES.items()},
    )
    metrics = ServerMetrics(lambda: live.current.count)
    add_error_handlers(app)
    _add_search_routes(app, live, limits, metrics, access_log)
    _add_index_routes(app, live, limits, playback)
    if playback:
        add_scene_routes(app, live)
    _add_static_routes(app, metrics)
    return Guard(RequireLogin(app, accounts) if accounts else app, limits, metrics)


def _add_search_routes(
    app: FastAPI, live: LiveIndex, limits: Limits, metrics: ServerMetrics, access_log: AccessLog | None
) -> None:
    search_threads = anyio.CapacityLimiter(max(2, worker_threads()))
    decode_threads = anyio.CapacityLimiter(MAX_DECODERS)
    uploads = UploadReader(limits.body, MAX_UPLOADS * limits.body)
    waiting = uploaded = 0

    async def run_search(snapshot: Snapshot, request: Request, **query) -> dict:
        nonlocal waiting
        texts = [text for text in (query.pop("text"), *query.pop("texts")) if text is not None]
        given = (query.get("image"), query.get("like"), query["right"] or None)
        if not texts and all(one is None for one in given):
            raise UserError("the query is empty: give a text, or a row of the index as 'like'")
        if not all(text.strip() for text in (*texts, *query["without"])):
            raise UserError("text: is empty: describe the person")
        if waiting >= MAX_WAITING:
            raise HTTPException(503, "too many searches are waiting: try again soon", {"Retry-After": "2"})
        waiting += 1
        metrics.waiting.set(waiting)
        hits = None
        try:
            run = functools.partial(search, snapshot.searcher, text=texts, **query)
            result = await run_in_thread(run, limiter=search_threads)
            hits = len(result["results"])
        finally:
            if access_log is not None:
                address = request.client.host if request.client else ""
                access_log.record(request.scope.get(USER_KEY), address, describe_query(texts, query), hits)
            waiting -= 1
            metrics.waiting.set(waiting)
        metrics.encode.observe(result["encode_ms"] / 1000)
        metrics.search.observe(result["search_ms"] / 1000)
        return result | {"version": snapshot.version}

    async def run_located(options: Options, request: Request, **given) -> dict:
        """Searches the current index, in which rows of an earlier version are looked up."""
        query = options.model_dump() | given
        locate = functools.partial(_locate_rows, live, query, query.pop("version"))
        names_rows = query.get("like") is not None or query["right"] or query["wrong"]
        snapshot, rows, notes = (
            await run_in_thread(locate, limiter=search_threads) if names_rows else locate()
        )
        result = await run_search(snapshot, request, **query, **rows)
        return result | rows | {"notes": [*notes, *result["notes"]]}

    def decode(content_type: str, body: bytes, size: tuple[int, int]):
        upload = parse_upload(content_type, body, limits.body)
        # Resized right after decoding: waiting uploads at full size would fill the memory.
        return images.read_upload(upload.photo, size), upload.fields

    @app.post(
        "/api/search",
        summary="Search by text, by a photo of the index, or by both",
        response_model=Answer,
    )
    async def search_text(question: Question, request: Request) -> dict:
        return await run_located(question, request)

    @app.post(
        "/api/search/photo",
        summary="Search by an uploaded photo",
        response_model=Answer,
        openapi_extra=PHOTO_BODY,
    )
    async def search_photo(options: Annotated[Options, Query()], request: Request) -> dict:
        nonlocal uploaded
        body = await uploads.read(request)  # slow uploads do not count toward MAX_UPLOADS
        try:
            if uploaded >= MAX_UPLOADS:
                raise HTTPException(503, "too many photos are waiting: try again soon", {"Retry-After": "2"})
            uploaded += 1
            try:
                content_type = request.headers.get("content-type", "")
                snapshot = live.current
                size = tuple(snapshot.searcher.model.config.image_size)
                read = functools.partial(decode, content_type, body, size)
                pixels, fields = await run_in_thread(read, limiter=decode_threads)
            finally:
                uploaded -= 1
        finally:
            uploads.release(body)
            del body
        return await run_located(_merge_options(options, fields), request, image=pixels)


def _locate_rows(live: LiveIndex, query: dict, version: str | None) -> tuple[Snapshot, dict, list[str]]:
    """Takes the rows that a query of some version names out of it; returns them in the current version.

    Returns:
      The current snapshot; `like`, `right` and `wrong`, whose paths stay as they are; and notes, also on
      marked photos that the current index does not have, which are left out.

    Raises:
      UserError: the current index does not have the photo `like`.
    """
    marks = {name: query.pop(name) for name in ("right", "wrong")}
    like = query.pop("like", None)
    named = [*([] if like is None else [like]), *marks["right"], *marks["wrong"]]
    rows = [one for one in dict.fromkeys(named) if isinstance(one, int)]
    snapshot, found, notes = live.find_rows(rows, version)
    now: dict[int | str, int | None] = dict(zip(rows, found, strict=True))
    if like is not None and now[like] is None:
        raise UserError("the photo is no longer in the index: search again")
    kept = {name: [one for one in marked if now.get(one, one) is not None] for name, marked in marks.items()}
    if kept != marks:
        notes = [*notes, "a marked photo is no longer in the index, and does not count"]
    located = {name: [now.get(one, one) for one in marked] for name, marked in kept.items()}
    return snapshot, located | {"like": None if like is None else now[like]}, notes


def _add_index_routes(app: FastAPI, live: LiveIndex, limits: Limits, playback: bool) -> None:
    threads = anyio.CapacityLimiter(max(2, worker_threads()))

    @app.get("/api/index", summary="The index and its columns")
    async def index() -> About:
        return _describe_index(live.current, limits, playback)

    @app.get(
        "/api/photos/{row}",
        summary="A photo of the index",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}, "description": "JPEG without metadata"}, **NOT_FOUND},
    )
    async def photo(
        row: Row,
        size: Literal["small", "large"] = "small",
        v: Annotated[str | None, Query(description="the version of the index that has this row")] = None,
    ) -> Response:
        snapshot = find_snapshot(live, v)
        large = functools.partial(
            images.photo_jpeg, snapshot.searcher.index, size="large", blur_faces=live.blur_faces
        )
        read: Callable[[int], bytes] = snapshot.thumbnail if size == "small" else large
        try:
            jpeg = await run_in_thread(lambda: read(row), limiter=threads)
        except IndexError:
            raise no_such_row(snapshot) from None
        except images.ChangedPhotoError:  # the messages contain the file's path on this machine
            raise HTTPException(
                404, "the photo has changed since it was indexed: index the photos again"
            ) from None
        except UserError:
            raise HTTPException(
                404, "the photo no longer exists or cannot be read: index the photos again"
            ) from None
        return Response(jpeg, media_type="image/jpeg", headers=cache_headers(v))


def _add_static_routes(app: FastAPI, metrics: ServerMetrics) -> None:
    @app.get("/metrics", summary="Prometheus metrics", response_class=Response, include_in_schema=False)
    async def get_metrics() -> Response:
        return Response(metrics.to_text(), media_type=CONTENT_TYPE)

    @app.get("/healthz", summary="Whether the server runs", response_class=Response, include_in_schema=False)
    async def get_health() -> Response:
        return Response("ok\n", media_type="text/plain")

    for file in sorted(PAGE.iterdir()):
        path = "/" if file.name == "index.html" else f"/{file.name}"
        handler = _static_file(file.read_bytes(), MEDIA_TYPES[file.suffix])
        app.get(path, include_in_schema=False)(handler)


def _static_file(content: bytes, media_type: str):
    async def get_file() -> Response:
        return Response(content, media_type=media_type, headers={"cache-control": "no-cache"})

    return get_file


def _merge_options(options: Options, fields: dict[str, str]) -> Options:
    """Returns the options of the query string, overridden by a form's. Raises RequestValidationError."""
    if not fields:
        return options
    try:
        return Options.model_validate({**options.model_dump(exclude_unset=True), **fields})
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise RequestValidationError(
            [{**detail, "loc": ("body", *detail["loc"])} for detail in details]
        ) from None


def _describe_index(snapshot: Snapshot, limits: Limits, playback: bool) -> About:
    searcher = snapshot.searcher
    return About(
        count=snapshot.count,
        version=snapshot.version,
        model=snapshot.model,
        engine=searcher.engine.name,
        columns=[Column(**column) for column in snapshot.columns],
        examples=list(EXAMPLES),
        max_text=MAX_TEXT,
        max_results=MAX_RESULTS,
        max_upload=limits.body,
        scenes=playback,
    )
