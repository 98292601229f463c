"""What the API takes and gives, as its OpenAPI description has it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

MAX_TEXT, MAX_WHERE, MAX_RESULTS = 2000, 2000, 200  # characters, characters, photos

Value = str | int | float | bool | None


class Options(BaseModel):
    """What a search may set besides what is searched for."""

    model_config = ConfigDict(extra="forbid")
    text: str | None = Field(None, max_length=MAX_TEXT, description="the person in words")
    weight: float = Field(0.5, ge=0, le=1, description="of the text beside a picture")
    top_k: int = Field(24, ge=1, le=MAX_RESULTS, description="photos to find")
    where: str | None = Field(
        None, max_length=MAX_WHERE, description="such as: camera=3 and time>'2024-05-01'"
    )
    group: float | None = Field(
        None, gt=0, le=1, description="list photos that resemble a better one, from this cosine on, under it"
    )


class Question(Options):
    """A search in words, for photos like one of the index, or both."""

    like: int | None = Field(None, ge=0, description="a row of the index: photos like that one")

    @field_validator("weight", "top_k", "group", "like", mode="before")
    @classmethod
    def _is_number(cls, value):
        """Raises where JSON has true or "3": only in an address all values are texts."""
        if isinstance(value, bool | str):
            raise PydanticCustomError("number_type", "Input should be a valid number")
        return value


class Photo(BaseModel):
    """A photo of the index."""

    row: int
    score: float = Field(description="the cosine")
    path: str
    box: list[int] | None = Field(description="x, y, width and height in pixels; null: all of the picture")
    columns: dict[str, Value]


class Found(Photo):
    """A photo in its place, with those grouped under it."""

    rank: int
    group: list[Photo] = []


class Answer(BaseModel):
    """The photos found, best first."""

    results: list[Found]
    count: int = Field(description="photos in the index")
    matching: int = Field(description="photos that `where` leaves")
    engine: str
    notes: list[str]
    encode_ms: float
    search_ms: float


class Column(BaseModel):
    """A column to filter by."""

    name: str
    kind: Literal["text", "number", "time", "flag"]
    values: list[Value] | None = Field(description="all that occur, where they are few")
    least: Value
    most: Value


class About(BaseModel):
    """What there is to search, and what the server allows."""

    count: int
    version: str = Field(description="another one whenever the rows may be others")
    model: str
    engine: str
    columns: list[Column]
    examples: list[str]
    max_text: int
    max_results: int
    max_upload: int


class Error(BaseModel):
    """Why there is no answer, in one line."""

    detail: str
