"""A photo that comes over HTTP: in the body as it is, or as a form's file (`curl -F file=@photo.jpg`)."""

from collections.abc import Callable
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import Request

from tpr_jax.errors import UserError

MAX_PARTS = 20  # of a form: the photo and the options
MAX_FIELD = 16_384  # bytes of an option
HOW = (
    "send the photo's bytes (curl --data-binary @photo.jpg) or a form with one file (curl -F file=@photo.jpg)"
)


class Uploads:
    """Reads bodies of at most `most` bytes, all together at most `budget`, so that memory has an end."""

    def __init__(self, most: int, budget: int):
        self.most, self.budget = most, budget
        self.held = 0  # bytes that are in memory now

    async def read(self, request: Request) -> bytes:
        """Returns the body. Its bytes count as held until `release`.

        Raises:
          HTTPException: 415, it is JSON; 503, too much is being sent; and what `request` raises.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind.endswith(("/json", "+json")):
            raise HTTPException(415, f"a photo is not sent as JSON: {HOW}; words go to /api/search")
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                self.held += len(chunk)
                if self.held > self.budget:
                    raise HTTPException(
                        503, "too many photos are being sent: try again soon", {"Retry-After": "2"}
                    )
        except BaseException:
            self.held -= len(body)
            raise
        return bytes(body)

    def release(self, body: bytes) -> None:
        """Says that the bytes of a body are no longer needed."""
        self.held -= len(body)


@dataclass
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)


def photo_of(content_type: str, body: bytes, most: int) -> tuple[bytes, dict[str, str]]:
    """Returns the photo's bytes, at most `most`, and the fields that stand beside it in a form.

    Whatever is not called a form is taken for the photo itself: most programs name some type or other.

    Raises:
      UserError: the form is damaged, or has not one file.
      HTTPException: 413, the photo is too large.
    """
    kind, settings = parse_options_header(content_type.encode("latin-1", "replace"))
    if not kind.startswith(b"multipart/"):
        return body, {}
    boundary = settings.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise UserError(f"the upload is no form that can be read (no boundary in its Content-Type): {HOW}")
    photos, fields = [], {}
    for part in _parts(boundary, body):
        _, said = parse_options_header(part.headers.get(b"content-disposition", b""))
        if b"filename" in said:
            photos.append(bytes(part.data))
        else:
            name = said.get(b"name", b"").decode("utf-8", "replace")
            if len(part.data) > MAX_FIELD:
                raise UserError(f"{name[:40]}: is too long for a field of a form: {HOW}")
            fields[name] = part.data.decode("utf-8", "replace")
    if len(photos) != 1:
        raise UserError(f"the form has {len(photos)} files: {HOW}")
    if len(photos[0]) > most:
        raise HTTPException(413, f"the photo is too large: at most {most:,} bytes")
    return photos[0], fields


def _parts(boundary: bytes, body: bytes) -> list[_Part]:
    parts, name, ended = [], bytearray(), False

    def begin() -> None:
        if len(parts) == MAX_PARTS:
            raise UserError(f"the form has more than {MAX_PARTS} parts: {HOW}")
        parts.append(_Part())

    def into(target: Callable[[], bytearray]):
        return lambda data, start, end: target().extend(data[start:end])

    value = bytearray()

    def header_end() -> None:
        parts[-1].headers[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    def end() -> None:
        nonlocal ended
        ended = True

    callbacks = {
        "on_part_begin": begin,
        "on_part_data": into(lambda: parts[-1].data),
        "on_header_field": into(lambda: name),
        "on_header_value": into(lambda: value),
        "on_header_end": header_end,
        "on_end": end,
    }
    try:
        parser = MultipartParser(boundary, callbacks)
        parser.write(body)
        parser.finalize()
    except FormParserError:
        ended = False
    if not ended:
        raise UserError(f"the form is damaged or cut off: {HOW}")
    return parts
