"""Photos uploaded over HTTP: as the request body, or as a file of a form (`curl -F file=@photo.jpg`)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import Request

from tpr_jax.errors import UserError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS = 20  # parts of a form: the photo and the options
MAX_FIELD = 16_384  # bytes of an option
USAGE = (
    "send the photo's bytes (curl --data-binary @photo.jpg) or a form with one file (curl -F file=@photo.jpg)"
)


class Upload(NamedTuple):
    """An uploaded photo, with the other fields of its form."""

    photo: bytes
    fields: dict[str, str]


class UploadReader:
    """Reads request bodies of at most `max_bytes` each and `budget` in total, which bounds the memory."""

    def __init__(self, max_bytes: int, budget: int):
        self.max_bytes, self.budget = max_bytes, budget
        self.bytes_in_use = 0

    async def read(self, request: Request) -> bytes:
        """Returns the body. Its bytes count against the budget until `release`.

        Raises:
          HTTPException: 415 if it is JSON, 503 if the budget is exceeded; and whatever `request` raises.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind.endswith(("/json", "+json")):
            raise HTTPException(415, f"a photo cannot be sent as JSON: {USAGE}; send text to /api/search")
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                self.bytes_in_use += len(chunk)
                if self.bytes_in_use > self.budget:
                    raise HTTPException(
                        503, "too many photos are being uploaded: try again soon", {"Retry-After": "2"}
                    )
        except BaseException:
            self.bytes_in_use -= len(body)
            raise
        return bytes(body)

    def release(self, body: bytes) -> None:
        """Returns the bytes of a body to the budget."""
        self.bytes_in_use -= len(body)


@dataclass
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)


def parse_upload(content_type: str, body: bytes, max_bytes: int) -> Upload:
    """Extracts the photo and the form fields from a request body.

    Any body that is not declared as a form is taken as the photo itself, because many programs send an
    arbitrary content type.

    Args:
      content_type: the request's Content-Type.
      body: the request's body.
      max_bytes: maximum size of the photo.

    Raises:
      UserError: the form is damaged, or does not have exactly one file.
      HTTPException: 413, the photo is too large.
    """
    kind, options = parse_options_header(content_type.encode("latin-1", "replace"))
    if not kind.startswith(b"multipart/"):
        return Upload(body, {})
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise UserError(f"the upload is not a readable form (its Content-Type has no boundary): {USAGE}")
    photos, fields = [], {}
    for part in _parse_form(boundary, body):
        _, disposition = parse_options_header(part.headers.get(b"content-disposition", b""))
        if b"filename" in disposition:
            photos.append(bytes(part.data))
        else:
            name = disposition.get(b"name", b"").decode("utf-8", "replace")
            if len(part.data) > MAX_FIELD:
                raise UserError(f"{name[:40]}: is too long for a form field: {USAGE}")
            fields[name] = part.data.decode("utf-8", "replace")
    if len(photos) != 1:
        raise UserError(f"the form has {len(photos)} files: {USAGE}")
    if len(photos[0]) > max_bytes:
        raise HTTPException(413, f"the photo is too large: at most {max_bytes:,} bytes")
    return Upload(photos[0], fields)


def _parse_form(boundary: bytes, body: bytes) -> list[_Part]:
    parts, name, value, ended = [], bytearray(), bytearray(), False

    def begin_part() -> None:
        if len(parts) == MAX_PARTS:
            raise UserError(f"the form has more than {MAX_PARTS} parts: {USAGE}")
        parts.append(_Part())

    def append_to(target: Callable[[], bytearray]) -> Callable[[bytes, int, int], None]:
        return lambda data, start, end: target().extend(data[start:end])

    def end_header() -> None:
        parts[-1].headers[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    def end_form() -> None:
        nonlocal ended
        ended = True

    callbacks: MultipartCallbacks = {
        "on_part_begin": begin_part,
        "on_part_data": append_to(lambda: parts[-1].data),
        "on_header_field": append_to(lambda: name),
        "on_header_value": append_to(lambda: value),
        "on_header_end": end_header,
        "on_end": end_form,
    }
    try:
        parser = MultipartParser(boundary, callbacks)
        parser.write(body)
        parser.finalize()
    except FormParserError:
        ended = False
    if not ended:
        raise UserError(f"the form is damaged or truncated: {USAGE}")
    return parts
