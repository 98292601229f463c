"""What the API answers where it cannot do as it is asked: always one line of JSON that says what would do."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tpr_jax.errors import UserError
from tpr_jax.search.server import pictures
from tpr_jax.search.server.schema import Options, Question

REFUSALS = {
    400: "the request cannot be read",
    403: "a page of another site asks",
    408: "the request did not come in time",
    413: "the request, or the picture in it, is too large",
    415: "the request is of another kind than is read here",
    421: "the server does not go by the name it was called",
    422: "a value cannot be used",
    429: "too many requests",
    500: "internal error",
    503: "too many searches, photos or connections are waiting",
}
WORDS = "/api/search"
EXAMPLE = '{"text": "a woman in a red coat"}'
NOT_JSON = f"the request is not JSON: send it with Content-Type: application/json, such as {EXAMPLE}"


def answer_errors(app: FastAPI) -> None:
    """Makes the application answer each error with one line of JSON."""

    @app.exception_handler(UserError)
    async def of_user(request: Request, error: UserError):
        code = 413 if isinstance(error, pictures.ImageTooLargeError) else 422
        return JSONResponse({"detail": str(error).removeprefix("--")}, code)

    @app.exception_handler(RequestValidationError)
    async def of_values(request: Request, error: RequestValidationError):
        first = error.errors()[0]
        if request.url.path != WORDS:
            return JSONResponse({"detail": why(first, Options)}, 422)
        if not is_json(request.headers.get("content-type", "")):
            return JSONResponse({"detail": NOT_JSON}, 415)
        return JSONResponse({"detail": why(first, Question)}, 422)

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException):
        detail = error.detail
        if error.status_code == 400:  # what FastAPI says of a body that it cannot read
            detail = f"the request cannot be read as JSON: send an object such as {EXAMPLE}"
        if error.status_code == 404 and detail == "Not Found":  # the router's own words
            detail = "there is nothing at this address: /openapi.json describes what there is"
        if error.status_code == 405:
            detail = f"{request.method} is not answered at this address: /openapi.json describes what is"
        return JSONResponse({"detail": detail}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def of_ours(request: Request, error: Exception):
        return JSONResponse({"detail": "internal error: the server's log says more"}, 500)


def is_json(content_type: str) -> bool:
    """Returns whether a body of this type is read as JSON."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind.startswith("application/") and kind.endswith(("/json", "+json"))


def why(error: dict, known: type[Options]) -> str:
    """Returns one line for an error of pydantic's: the value's name, what is wrong, and what to send."""
    where = ".".join(str(part) for part in error["loc"][1:] if not isinstance(part, int))
    if where and error["type"] == "extra_forbidden":
        return f"{where[:40]}: is unknown; choose from: {', '.join(known.model_fields)}"
    if where:
        return f"{where}: {error['msg']}"
    if error["type"] == "json_invalid":
        return f"the request: is not valid JSON ({error['ctx']['error']}): send an object such as {EXAMPLE}"
    return f"the request: send a JSON object such as {EXAMPLE}"
