"""Searching over HTTP: a page, a JSON API with its OpenAPI description, and Prometheus metrics.

GET  /                  the page                    GET  /api/index         what there is to search
POST /api/search        a question as JSON          GET  /api/photos/{row}  a photo of the index, as JPEG
POST /api/search/photo  a picture, in the body      GET  /metrics           GET  /openapi.json
                        or a form's file
"""

import functools
import hashlib
import json
import time
from pathlib import Path
from typing import Annotated, Literal

import anyio
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from tpr_jax import __version__
from tpr_jax.data.batches import worker_threads
from tpr_jax.errors import UserError
from tpr_jax.search.query import columns
from tpr_jax.search.query.search import Searcher, search
from tpr_jax.search.server import metrics as meters_lib
from tpr_jax.search.server import pictures
from tpr_jax.search.server.guard import Limits, guarded
from tpr_jax.search.server.refusals import REFUSALS, answer_errors
from tpr_jax.search.server.schema import MAX_RESULTS, MAX_TEXT, About, Answer, Error, Options, Question
from tpr_jax.search.server.uploads import Uploads, photo_of

MAX_UPLOADS = 32  # whole photos that are in memory at once
DECODINGS = 2  # of uploads at once: a large one takes hundreds of megabytes
MAX_WAITING = 200  # searches; who comes then is told to come again
PAGE = Path(__file__).parent / "page"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
EXAMPLES = (
    "a woman in a red coat with a white bag",
    "a man with a yellow backpack and blue jeans",
    "a person in a black jacket and grey trousers",
    "a girl with long hair in a green dress",
)

_BINARY = {"type": "string", "format": "binary"}
NOT_FOUND = {404: {"model": Error, "description": "there is no such photo"}}
PICTURE_BODY = {
    "requestBody": {
        "required": True,
        "description": f"the bytes of a picture: {', '.join(pictures.FORMATS)}; or a form with one file, "
        "whose other fields are options as in the address",
        "content": {
            "application/octet-stream": {"schema": _BINARY},
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"file": _BINARY}, "required": ["file"]}
            },
        },
    }
}


def make_app(searcher: Searcher, limits: Limits):
    """The ASGI application that answers for an index; `limits` say whom and how often."""
    app = FastAPI(
        title="tpr_jax search",
        version=__version__,
        description="Photos of people, found in words. Scores are cosines.",
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        responses={code: {"model": Error, "description": why} for code, why in REFUSALS.items()},
    )
    meters = meters_lib.Meters(len(searcher.index.vectors))
    about = _about(searcher, limits)
    searches, thumbnails = (anyio.CapacityLimiter(max(2, worker_threads())) for _ in range(2))
    decodings = anyio.CapacityLimiter(DECODINGS)
    uploads = Uploads(limits.body, MAX_UPLOADS * limits.body)
    small = functools.lru_cache(1024)(functools.partial(pictures.photo_jpeg, searcher.index, size="small"))
    waiting = uploaded = 0
    answer_errors(app)

    async def ask(**question) -> dict:
        nonlocal waiting
        if all(question.get(kind) is None for kind in ("text", "image", "like")):
            raise UserError("nothing is asked: give a text, or a row of the index as 'like'")
        if not (question["text"] or "a").strip():
            raise UserError("text: is empty: describe the person in words")
        if waiting >= MAX_WAITING:
            raise HTTPException(503, "too many searches are waiting: try again soon", {"Retry-After": "2"})
        waiting += 1
        meters.waiting.set(waiting)
        try:
            call = functools.partial(search, searcher, **question)
            found = await in_thread(call, limiter=searches)
        finally:
            waiting -= 1
            meters.waiting.set(waiting)
        meters.encode.observe(found["encode_ms"] / 1000)
        meters.search.observe(found["search_ms"] / 1000)
        return found

    @app.get("/api/index", summary="What there is to search")
    async def index() -> About:
        return about

    @app.post("/api/search", summary="Search in words, or for photos like one of the index")
    async def search_words(question: Question) -> Answer:
        return await ask(**question.model_dump())

    @app.post("/api/search/photo", summary="Search for photos like the one sent", openapi_extra=PICTURE_BODY)
    async def search_picture(options: Annotated[Options, Query()], request: Request) -> Answer:
        nonlocal uploaded
        body = await uploads.read(request)  # those who send slowly take none of the places below
        try:
            if uploaded >= MAX_UPLOADS:
                raise HTTPException(503, "too many photos are waiting: try again soon", {"Retry-After": "2"})
            uploaded += 1
            try:
                kind = request.headers.get("content-type", "")
                pixels, fields = await in_thread(decode, kind, body, limiter=decodings)
            finally:
                uploaded -= 1
        finally:
            uploads.release(body)
            del body
        return await ask(image=pixels, **_with_fields(options, fields).model_dump())

    def decode(kind: str, body: bytes):
        data, fields = photo_of(kind, body, limits.body)
        # Resized where it is decoded: whole pictures of many uploads that wait would fill the memory.
        return pictures.read_upload(data, tuple(searcher.model.config.image_size)), fields

    @app.get(
        "/api/photos/{row}",
        summary="A photo of the index",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}, "description": "JPEG without metadata"}, **NOT_FOUND},
    )
    async def photo(row: Annotated[int, InPath(ge=0)], size: Literal["small", "large"] = "small") -> Response:
        make = small if size == "small" else functools.partial(pictures.photo_jpeg, searcher.index, size=size)
        try:
            jpeg = await in_thread(make, row, limiter=thumbnails)
        except IndexError:
            raise HTTPException(404, f"the index has the rows 0 to {about.count - 1}") from None
        except UserError:  # it would name the file's place on this machine
            raise HTTPException(404, "the photo is gone or cannot be read: index the photos again") from None
        return Response(jpeg, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    @app.get("/metrics", summary="Prometheus metrics", response_class=Response, include_in_schema=False)
    async def metrics() -> Response:
        return Response(meters.text(), media_type=meters_lib.CONTENT_TYPE)

    for file in sorted(PAGE.iterdir()):
        path = "/" if file.name == "index.html" else f"/{file.name}"
        app.get(path, include_in_schema=False)(_page_file(file.read_bytes(), KINDS[file.suffix]))
    return guarded(app, limits, meters, time.monotonic)


# A thread that is busy in C code cannot be ended: so that the server can, nobody waits for it then.
in_thread = functools.partial(anyio.to_thread.run_sync, abandon_on_cancel=True)


def _with_fields(options: Options, fields: dict[str, str]) -> Options:
    """The options of the address and of a form's fields. Raises RequestValidationError."""
    if not fields:
        return options
    try:
        return Options.model_validate({**options.model_dump(exclude_unset=True), **fields})
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in found]) from None


def _page_file(content: bytes, kind: str):
    async def page() -> Response:
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    return page


def _about(searcher: Searcher, limits: Limits) -> About:
    info = searcher.index.info
    return About(
        count=len(searcher.index.vectors),
        version=hashlib.sha256(json.dumps(info, sort_keys=True).encode()).hexdigest()[:12],
        model=Path(info["model"]["name"]).name,  # where it lies is nobody's business
        engine=searcher.engine.name,
        columns=columns.columns(searcher.index),
        examples=list(EXAMPLES),
        max_text=MAX_TEXT,
        max_results=MAX_RESULTS,
        max_upload=limits.body,
    )
