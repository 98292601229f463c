"""Requests and responses of the API, as its OpenAPI description shows them."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

MAX_TEXT, MAX_WHERE, MAX_RESULTS = 2000, 2000, 200  # characters, characters, photos

MAX_ANSWERS = 100  # more than there are attributes to ask for
MAX_TEXTS = 8  # further descriptions, and descriptions of what the person does not have
Text = Annotated[str, Field(max_length=MAX_TEXT)]
MAX_MARKS = 50  # results marked right, and results marked wrong
MAX_PATH = 4096  # characters
MAX_ROW = 2**63 - 1
Value = str | int | float | bool | None


def as_mark(mark: object) -> int | str:
    """Checks a row or a path. Digits are a row, as a URL has them; more than a row can have are a path."""
    if isinstance(mark, str) and re.fullmatch(r"[0-9]{1,19}", mark):
        mark = int(mark)
    if isinstance(mark, float) and mark.is_integer():  # 3.0, which is a whole number in JSON
        mark = int(mark)
    if isinstance(mark, bool) or not isinstance(mark, int | str):
        raise PydanticCustomError("mark_type", "Input should be a row or a path")
    if isinstance(mark, str) and len(mark) > MAX_PATH:
        raise PydanticCustomError(
            "mark_too_long", "Path should have at most {limit} characters", {"limit": MAX_PATH}
        )
    if isinstance(mark, int) and not 0 <= mark <= MAX_ROW:
        raise PydanticCustomError("mark_range", "Row should be from 0 to {limit}", {"limit": MAX_ROW})
    return mark


_PATH = {"type": "string", "maxLength": MAX_PATH}
_ROW = {"type": "integer", "minimum": 0, "maximum": MAX_ROW}
# In a URL everything is text.
TextMark = Annotated[Any, PlainValidator(as_mark), WithJsonSchema(_PATH)]
Mark = Annotated[Any, PlainValidator(as_mark), WithJsonSchema({"anyOf": [_ROW, _PATH]})]
_RIGHT = "photos of the index that show the person: rows, or paths"
_WRONG = "photos of the index that do not"


class Options(BaseModel):
    """The options of a search."""

    model_config = ConfigDict(extra="forbid")
    text: str | None = Field(None, max_length=MAX_TEXT, description="a description of the person")
    texts: list[Text] = Field(
        [], max_length=MAX_TEXTS, description="further descriptions, averaged with `text`"
    )
    without: list[Text] = Field([], max_length=MAX_TEXTS, description="what the person does not have")
    right: list[TextMark] = Field([], max_length=MAX_MARKS, description=_RIGHT)
    wrong: list[TextMark] = Field([], max_length=MAX_MARKS, description=_WRONG)
    yes: list[Text] = Field([], max_length=MAX_ANSWERS, description="questions answered with yes: `phrase`")
    no: list[Text] = Field([], max_length=MAX_ANSWERS, description="questions answered with no: `phrase`")
    unknown: list[Text] = Field(
        [], max_length=MAX_ANSWERS, description="questions without an answer, which `ask` does not ask again"
    )
    ask: bool = Field(False, description="whether to choose a question about the person")
    version: str | None = Field(
        None,
        max_length=64,
        description="the version of the index that has the rows of `like`, `right` and `wrong`; default: the "
        "current",
    )
    weight: float = Field(0.5, ge=0, le=1, description="weight of the text relative to the photo")
    top_k: int = Field(24, ge=1, le=MAX_RESULTS, description="maximum number of results")
    where: str | None = Field(
        None, max_length=MAX_WHERE, description="such as: camera=3 and time>'2024-05-01'"
    )
    group: float | None = Field(
        None,
        gt=0,
        le=1,
        description="group photos whose cosine with a better result is at least this, or that show the same "
        "person, track or moment",
    )


class Question(Options):
    """A search by text, by a photo of the index, or by both."""

    like: int | None = Field(None, ge=0, description="a row of the index: find photos like this one")
    right: list[Mark] = Field([], max_length=MAX_MARKS, description=_RIGHT)
    wrong: list[Mark] = Field([], max_length=MAX_MARKS, description=_WRONG)

    @field_validator("weight", "top_k", "group", "like", mode="before")
    @classmethod
    def _check_is_number(cls, value):
        """Rejects true and "3", which pydantic would convert; only in a URL are all values strings."""
        if isinstance(value, bool | str):
            raise PydanticCustomError("number_type", "Input should be a valid number")
        return value


class Photo(BaseModel):
    """A photo of the index."""

    row: int
    score: float = Field(description="the cosine")
    chance: float | None = Field(
        None, description="share of pairs of a made-up description and a photo that score as high"
    )
    path: str
    box: list[int] | None = Field(description="x, y, width and height in pixels; null: the whole photo")
    columns: dict[str, Value]


class Found(Photo):
    """A ranked photo, with the photos grouped under it."""

    rank: int
    group: list[Photo] = []
    seen: str | None = Field(
        None,
        description="how often, where and when, if several photos are grouped: seen 4 times, 10:02 to 10:17",
    )


class Ask(BaseModel):
    """The question about the person whose answer helps most to tell the best photos apart."""

    text: str
    phrase: str = Field(description="for `yes`, `no` or `unknown` of the next search")
    gain: float = Field(description="expected information about which of the first 50 photos is right, bits")
    share: float = Field(description="how likely the answer is yes, by the model")


class Answer(BaseModel):
    """The photos found, best first."""

    results: list[Found]
    version: str = Field(description="of the index that was searched")
    like: int | None = Field(None, description="the row of the photo that `like` named, in this version")
    right: list[int | str] = Field(description="the photos that `right` named, their rows in this version")
    wrong: list[int | str] = Field(description="the photos that `wrong` named, likewise")
    count: int = Field(description="photos in the index")
    matching: int = Field(description="photos that match `where`")
    chance: float | None = Field(
        None, description="share of made-up descriptions whose best photo scores as high as the best result"
    )
    unlikely: bool = Field(False, description="whether the best result is no better than chance")
    question: Ask | None = Field(None, description="with `ask`; null if there is nothing to ask")
    engine: str
    notes: list[str]
    encode_ms: float
    search_ms: float


class Column(BaseModel):
    """A column to filter by."""

    name: str
    kind: Literal["text", "number", "time", "flag"]
    values: list[Value] | None = Field(description="all distinct values, if there are few")
    least: Value
    most: Value
    resolution: Literal["day", "minute", "second", "fraction"] | None = Field(
        description="what all times of the column are multiples of"
    )


class About(BaseModel):
    """The index and the limits of the server."""

    count: int
    version: str = Field(description="changes whenever the rows may have changed")
    model: str
    engine: str
    columns: list[Column]
    examples: list[str]
    max_text: int
    max_results: int
    max_upload: int
    scenes: bool = Field(description="whether the server shows whole frames and videos")


class SceneAnswer(BaseModel):
    """Where a person was seen."""

    kind: Literal["video", "photo"]
    box: list[int] = Field(description="x, y, width and height in pixels of the frame")
    width: int = Field(description="of the whole frame or photo, in its own pixels")
    height: int
    seconds: float | None = Field(description="the moment, from the start of the video")
    before: float = Field(description="seconds before the moment that are worth playing")
    after: float
    media_type: str | None = Field(description="of the video, if browsers may play it")


class Moments(BaseModel):
    """The times of frames around the moment, from the start of the video."""

    seconds: list[float]


class Error(BaseModel):
    """The reason for an error, in one line."""

    detail: str
