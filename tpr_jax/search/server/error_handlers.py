"""Error responses of the API: one line of JSON that says what is wrong and what to send instead."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tpr_jax.errors import UserError
from tpr_jax.search.server import images
from tpr_jax.search.server.schema import Options, Question

ERROR_RESPONSES = {
    400: "the request cannot be parsed",
    401: "the server has accounts, and the request has no valid login",
    403: "the request comes from a page of another site",
    408: "the request did not arrive in time",
    413: "the request, or the image in it, is too large",
    415: "the request has an unsupported content type or encoding",
    421: "the server does not answer to this host name",
    422: "a value is invalid",
    429: "too many requests",
    500: "internal error",
    503: "too many searches, photos or connections are waiting",
}
SEARCH_PATH = "/api/search"
EXAMPLE = '{"text": "a woman in a red coat"}'
NOT_JSON = f"the request is not JSON: send it with Content-Type: application/json, such as {EXAMPLE}"


def add_error_handlers(app: FastAPI) -> None:
    """Makes the application answer every error with one line of JSON."""

    @app.exception_handler(UserError)
    async def handle_user_error(request: Request, error: UserError):
        code = 413 if isinstance(error, images.ImageTooLargeError) else 422
        return JSONResponse({"detail": str(error).removeprefix("--")}, code)

    @app.exception_handler(RequestValidationError)
    async def handle_validation_error(request: Request, error: RequestValidationError):
        first = error.errors()[0]
        if request.url.path != SEARCH_PATH:
            return JSONResponse({"detail": describe_error(first, Options)}, 422)
        if not is_json(request.headers.get("content-type", "")):
            return JSONResponse({"detail": NOT_JSON}, 415)
        return JSONResponse({"detail": describe_error(first, Question)}, 422)

    @app.exception_handler(HTTPException)
    async def handle_http_error(request: Request, error: HTTPException):
        detail = error.detail
        if error.status_code == 400:  # FastAPI could not parse the body
            detail = f"the request cannot be parsed as JSON: send an object such as {EXAMPLE}"
        if error.status_code == 404 and detail == "Not Found":  # the router's own message
            detail = "this address does not exist: see /openapi.json for those that do"
        if error.status_code == 405:
            detail = f"{request.method} is not allowed at this address: see /openapi.json for what is"
        return JSONResponse({"detail": detail}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def handle_internal_error(request: Request, error: Exception):
        return JSONResponse({"detail": "internal error: see the server's log"}, 500)


def is_json(content_type: str) -> bool:
    """Returns whether a body of this type is read as JSON."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind.startswith("application/") and kind.endswith(("/json", "+json"))


def describe_error(error: dict, model: type[Options]) -> str:
    """Returns one line for an error of pydantic: the field's name, what is wrong, and what to send.

    Args:
      error: an item of `ValidationError.errors()`.
      model: the model that was validated; its fields are the names to choose from.
    """
    field = ".".join(str(part) for part in error["loc"][1:] if not isinstance(part, int))
    if field and error["type"] == "extra_forbidden":
        return f"{field[:40]}: is unknown; choose from: {', '.join(model.model_fields)}"
    if field:
        return f"{field}: {error['msg']}"
    if error["type"] == "json_invalid":
        return f"the request: is not valid JSON ({error['ctx']['error']}): send an object such as {EXAMPLE}"
    return f"the request: send a JSON object such as {EXAMPLE}"
