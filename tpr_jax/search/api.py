"""Searching over HTTP: a page, a JSON API with its OpenAPI description, and Prometheus metrics.

GET  /                  the page                    GET  /api/index         what there is to search
POST /api/search        a question as JSON          GET  /api/photos/{row}  a photo of the index, as JPEG
POST /api/search/photo  a picture in the body       GET  /metrics           GET  /openapi.json
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
from fastapi.responses import JSONResponse

from tpr_jax import __version__
from tpr_jax.data.batches import worker_threads
from tpr_jax.errors import UserError
from tpr_jax.search import columns as columns_lib
from tpr_jax.search import meters as meters_lib
from tpr_jax.search import pictures
from tpr_jax.search.guard import Limits, guarded
from tpr_jax.search.query import Searcher, search
from tpr_jax.search.schema import MAX_RESULTS, MAX_TEXT, About, Answer, Error, Options, Question

MAX_UPLOADS, UPLOAD_SECONDS = 32, 60  # that are read at once; that one may take
MAX_WAITING = 200  # searches; who comes then is told to come again
PAGE = Path(__file__).parent / "page"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
EXAMPLES = (
    "a woman in a red coat with a white bag",
    "a man with a yellow backpack and blue jeans",
    "a person in a black jacket and grey trousers",
    "a girl with long hair in a green dress",
)

REFUSALS = {
    400: "the request cannot be read",
    408: "the request did not come in time",
    413: "the request, or the picture in it, is too large",
    421: "the server does not go by the name it was called",
    422: "a value cannot be used",
    429: "too many requests",
    500: "internal error",
    503: "too many searches are waiting",
}
NOT_FOUND = {404: {"model": Error, "description": "there is no such photo"}}
PICTURE_BODY = {
    "requestBody": {
        "required": True,
        "description": f"the bytes of a picture: {', '.join(pictures.FORMATS)}",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
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
    searches, decodings = (anyio.CapacityLimiter(max(2, worker_threads())) for _ in range(2))
    small = functools.lru_cache(1024)(functools.partial(pictures.photo_jpeg, searcher.index, size="small"))
    # Resized where it is decoded: whole pictures of many uploads that wait would fill the memory.
    read_upload = functools.partial(pictures.read_upload, size=tuple(searcher.model.config.image_size))
    waiting = uploads = 0
    _answer_errors(app)

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
            found = await anyio.to_thread.run_sync(call, limiter=searches)
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
        nonlocal uploads
        if uploads >= MAX_UPLOADS:
            raise HTTPException(503, "too many photos are being sent: try again soon", {"Retry-After": "2"})
        uploads += 1
        try:
            with anyio.fail_after(UPLOAD_SECONDS):
                data = await request.body()
            pixels = await anyio.to_thread.run_sync(read_upload, data, limiter=decodings)
            return await ask(image=pixels, **options.model_dump())
        except TimeoutError:
            raise HTTPException(408, f"the photo did not come within {UPLOAD_SECONDS} seconds") from None
        finally:
            uploads -= 1

    @app.get(
        "/api/photos/{row}",
        summary="A photo of the index",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}, "description": "JPEG without metadata"}, **NOT_FOUND},
    )
    async def photo(row: Annotated[int, InPath(ge=0)], size: Literal["small", "large"] = "small") -> Response:
        make = small if size == "small" else functools.partial(pictures.photo_jpeg, searcher.index, size=size)
        try:
            jpeg = await anyio.to_thread.run_sync(make, row, limiter=decodings)
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
        columns=columns_lib.columns(searcher.index),
        examples=list(EXAMPLES),
        max_text=MAX_TEXT,
        max_results=MAX_RESULTS,
        max_upload=limits.body,
    )


def _answer_errors(app: FastAPI) -> None:
    """Each error as one line of JSON."""

    @app.exception_handler(UserError)
    async def of_user(request: Request, error: UserError):
        code = 413 if isinstance(error, pictures.TooLarge) else 422
        return JSONResponse({"detail": str(error).removeprefix("--")}, code)

    @app.exception_handler(RequestValidationError)
    async def of_values(request: Request, error: RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:] if not isinstance(part, int))
        return JSONResponse({"detail": f"{where or 'the request'}: {first['msg']}"}, 422)

    @app.exception_handler(Exception)
    async def of_ours(request: Request, error: Exception):
        return JSONResponse({"detail": "internal error: the server's log says more"}, 500)
