"""Evaluates conditions on the columns of an index, such as `camera=3 and time>='2024-05-01'`, without `eval`.

    condition   = term {"or" term}          term = factor {"and" factor}
    factor      = "not" factor | "(" condition ")" | comparison
    comparison  = column (= == != <> < <= > >=) value
                | column ["not"] "in" "(" value {"," value} ")"
                | column ["not"] "like" 'text with % and _'
                | column "is" ["not"] "null"
    value       = number | 'text' | "text" | true | false

A column name that is not a single word is written in backquotes. As in SQL, a comparison with a missing value
is neither true nor false, and only rows for which the condition is true match. No SQL engine is used, because
its statements can read files.
"""

import math
import re
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Bool

from tpr_jax.errors import UserError
from tpr_jax.search.index.table import is_utf8, parse_time
from tpr_jax.utils.escape import escape_unprintable
from tpr_jax.utils.lookalikes import describe_lookalike
from tpr_jax.utils.suggest import nearest

pc: Any = pyarrow.compute  # creates its functions when it is imported

TOKEN = re.compile(
    r"""\s*(?:(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?!\w)
    |(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
    |(?P<word>[^\W\d][\w\u0300-\u036f]*)
    |`(?P<quoted>[^`]+)`
    |(?P<sign><=|>=|==|!=|<>|[=<>(),]))""",
    re.VERBOSE,
)
COMPARISONS = {
    "=": pc.equal,
    "==": pc.equal,
    "!=": pc.not_equal,
    "<>": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
KEYWORDS = ("and", "or", "not", "in", "like", "is", "null", "true", "false")
MAX_LENGTH, MAX_DEPTH = 10_000, 50


class Token(NamedTuple):
    """A token of a condition; `kind` is a group of `TOKEN`, 'keyword' or 'end'."""

    kind: str
    text: str


Tokens = list[Token]
Constant = str | int | float | bool
Value = Constant | datetime
M = TypeVar("M")  # the value of a condition


@runtime_checkable
class Backend(Protocol[M]):
    """What a condition is evaluated by, or translated to: `ArrowBackend`, and SQL in `postgres.where`.

    All of its values are true, false or null for each row.

    Attributes:
      schema: the columns.
    """

    schema: pa.Schema

    def compare(self, name: str, sign: str, value: Value) -> M:
        """Compares a column by a sign of `COMPARISONS` with a value that its type can represent."""
        ...

    def unknown(self) -> M:
        """Returns null for each row."""
        ...

    def is_null(self, name: str) -> M:
        """Returns whether a column has no value, never null."""
        ...

    def like(self, name: str, pattern: str) -> M:
        """Matches a text column with a pattern of `%` and `_`, in which a backslash is ordinary."""
        ...

    def join(self, word: Literal["and", "or"], left: M, right: M) -> M:
        """Joins two values."""
        ...

    def invert(self, value: M) -> M:
        """Negates a value; null stays null."""
        ...


class ArrowBackend:
    """Evaluates a condition on a table in memory."""

    def __init__(self, table: pa.Table):
        self.schema, self._table = table.schema, table

    def _values(self, name: str) -> pa.Array:
        return self._table[name].combine_chunks()

    def compare(self, name: str, sign: str, value: Value) -> pa.Array:
        """Compares as `Backend.compare`."""
        dtype = self.schema.field(name).type if isinstance(value, datetime) else None
        return COMPARISONS[sign](self._values(name), pa.scalar(value, dtype))

    def unknown(self) -> pa.Array:
        """Returns null for each row."""
        return pa.nulls(self._table.num_rows, pa.bool_())

    def is_null(self, name: str) -> pa.Array:
        """Returns whether a column has no value."""
        return pc.is_null(self._values(name))

    def like(self, name: str, pattern: str) -> pa.Array:
        """Matches as `Backend.like`."""
        if "\\" not in pattern:
            return pc.match_like(self._values(name), pattern)
        # In SQL a backslash is an ordinary character. Arrow treats it as an escape, and not consistently.
        wildcards = {"%": ".*", "_": "."}
        regex = "".join(
            wildcards.get(c) or (c if c.isalnum() or ord(c) > 127 else f"\\x{ord(c):02x}") for c in pattern
        )
        return pc.match_substring_regex(self._values(name), rf"(?s)\A{regex}\z")

    def join(self, word: Literal["and", "or"], left: pa.Array, right: pa.Array) -> pa.Array:
        """Joins two masks."""
        return (pc.and_kleene if word == "and" else pc.or_kleene)(left, right)

    def invert(self, value: pa.Array) -> pa.Array:
        """Negates a mask."""
        return pc.invert(value)


def matching(table: pa.Table, condition: str) -> Bool[np.ndarray, " n"]:
    """Returns which rows of the table match a condition.

    Raises:
      UserError: the condition is invalid, names an unknown column, or compares a column with a value of
        another type.
    """
    mask = translate(ArrowBackend(table), condition)
    return pc.fill_null(mask, False).to_numpy(zero_copy_only=False)


def translate(backend: Backend[M], condition: str) -> M:
    """Parses a condition, and returns its value by a backend.

    Raises:
      UserError: as `matching`.
    """
    if len(condition) > MAX_LENGTH:
        raise UserError(f"--where: {len(condition)} characters are too many: at most {MAX_LENGTH}")
    if not is_utf8(condition):
        raise UserError("--where: contains half of a surrogate pair, or bytes that are not UTF-8: retype it")
    try:
        mask, rest = _condition(backend, _tokenize(condition), 0)
        if rest[0].kind != "end":
            raise UserError(f"--where: unexpected '{_shorten(rest[0].text)}': join conditions with and, or")
        return mask
    except UserError as error:  # column names may contain anything
        raise UserError(escape_unprintable(str(error))) from None
    except pa.ArrowException as error:
        raise UserError(
            f"--where: cannot be used ({escape_unprintable(str(error))[:200]}): simplify it"
        ) from error


def _tokenize(text: str) -> Tokens:
    tokens, position = [], 0
    text = text.rstrip()
    while position < len(text):
        match = TOKEN.match(text, position)
        if not match:
            raise UserError(
                f"--where: cannot read '{text[position : position + 20].strip()}': write conditions such as "
                "camera=3 and time>='2024-05-01', with text in quotes"
            )
        kind = match.lastgroup or ""
        value, position = match[kind], match.end()
        if kind == "word" and value.lower() in KEYWORDS:
            kind, value = "keyword", value.lower()
        tokens.append(Token(kind, value))
    if not tokens:
        raise UserError("--where: the condition is empty: write, for example, camera=3")
    return [*tokens, Token("end", "the end")]


# Each parser takes the remaining tokens, and returns the value of its expression and the tokens after it.
def _condition(backend: Backend[M], tokens: Tokens, depth: int) -> tuple[M, Tokens]:
    if depth > MAX_DEPTH:
        raise UserError(f"--where: more than {MAX_DEPTH} nested brackets")
    mask, rest = _term(backend, tokens, depth)
    while rest[0] == ("keyword", "or"):
        other, rest = _term(backend, rest[1:], depth)
        mask = backend.join("or", mask, other)
    return mask, rest


def _term(backend: Backend[M], tokens: Tokens, depth: int) -> tuple[M, Tokens]:
    mask, rest = _factor(backend, tokens, depth)
    while rest[0] == ("keyword", "and"):
        other, rest = _factor(backend, rest[1:], depth)
        mask = backend.join("and", mask, other)
    return mask, rest


def _factor(backend: Backend[M], tokens: Tokens, depth: int) -> tuple[M, Tokens]:
    if tokens[0] == ("keyword", "not"):
        if depth > MAX_DEPTH:
            raise UserError(f"--where: more than {MAX_DEPTH} nested 'not'")
        mask, rest = _factor(backend, tokens[1:], depth + 1)
        return backend.invert(mask), rest
    if tokens[0] == ("sign", "("):
        mask, rest = _condition(backend, tokens[1:], depth + 1)
        return mask, _expect(rest, ("sign", ")"))
    return _comparison(backend, tokens)


def _find_column(name: str, columns: Sequence[str]) -> str:
    """Returns the column of this name, whose accents may be encoded in another form (composed or not)."""
    if name in columns:
        return name
    for column in columns:
        if unicodedata.normalize("NFC", column) == unicodedata.normalize("NFC", name):
            return column
    hint = describe_lookalike(name, columns).removeprefix(", but ") or nearest(name, columns)
    raise UserError(f"--where: column '{_shorten(name)}' is unknown: {hint}")


def _comparison(backend: Backend[M], tokens: Tokens) -> tuple[M, Tokens]:
    kind, name = tokens[0]
    if kind not in ("word", "quoted"):
        raise UserError(
            f"--where: expected a column name but found {_shorten(name)}: write, for example, camera=3"
        )
    name, rest = _find_column(name, backend.schema.names), tokens[1:]
    if rest[0] == ("keyword", "is"):
        rest, negated = _optional_not(rest[1:])
        mask = backend.is_null(name)
        return (backend.invert(mask) if negated else mask), _expect(rest, ("keyword", "null"))
    kind, sign = rest[0]
    if sign in COMPARISONS and kind == "sign":
        return _compare(backend, name, sign, rest[1]), rest[2:]
    rest, negated = _optional_not(rest)
    if rest[0] == ("keyword", "in"):
        mask, rest = _is_in(backend, name, _expect(rest[1:], ("sign", "(")))
    elif rest[0] == ("keyword", "like"):
        if not pa.types.is_string(backend.schema.field(name).type) or rest[1][0] != "text":
            raise UserError(f"--where: {name} like ...: needs a text column and a text in quotes")
        mask, rest = backend.like(name, _unquote(rest[1][1])), rest[2:]
    else:
        raise UserError(
            f"--where: found {_shorten(rest[0].text)} after '{name}': compare it with =, !=, <, <=, >, >=, "
            "in, like or is"
        )
    return (backend.invert(mask) if negated else mask), rest


def _is_in(backend: Backend[M], name: str, rest: Tokens) -> tuple[M, Tokens]:
    mask = None
    while True:
        equal = _compare(backend, name, "=", rest[0])
        mask = equal if mask is None else backend.join("or", mask, equal)
        if rest[1] != ("sign", ","):
            return mask, _expect(rest[1:], ("sign", ")"))
        rest = rest[2:]


def _compare(backend: Backend[M], name: str, sign: str, token: Token) -> M:
    literal = _parse_literal(name, token)
    dtype = backend.schema.field(name).type
    if pa.types.is_null(dtype):  # a column without any value
        return backend.unknown()
    if pa.types.is_timestamp(dtype):
        return backend.compare(name, sign, _parse_timestamp(name, dtype, literal))
    if pa.types.is_string(dtype) != isinstance(literal, str):
        expected = "text: write the value in quotes" if pa.types.is_string(dtype) else "numbers, not text"
        expected = "true or false" if pa.types.is_boolean(dtype) else expected
        raise UserError(f"--where: {name} {sign} {_shorten(token.text)}: the column holds {expected}")
    if pa.types.is_boolean(dtype) != isinstance(literal, bool):
        expected = "true or false" if pa.types.is_boolean(dtype) else "numbers"
        raise UserError(f"--where: {name} {sign} {_shorten(token.text)}: the column holds {expected}")
    if not isinstance(literal, str | bool):
        return _compare_numbers(backend, name, sign, literal)
    return backend.compare(name, sign, literal)


def _compare_numbers(backend: Backend[M], name: str, sign: str, number: int | float) -> M:
    """Compares exactly, even if the column's type cannot represent the number (2**53 + 1, 2**63 or 0.5)."""
    if pa.types.is_integer(backend.schema.field(name).type):
        nearest_value = min(max(math.floor(number), -(2**63)), 2**63 - 1)
    else:
        nearest_value = float(number)
    if number == nearest_value:
        return backend.compare(name, sign, nearest_value)
    if sign in ("=", "==", "!=", "<>"):
        less, greater = (backend.compare(name, other, nearest_value) for other in "<>")
        never = backend.join("and", less, greater)
        return never if sign in ("=", "==") else backend.invert(never)
    below = sign in ("<", "<=")
    if number > nearest_value:
        return backend.compare(name, "<=" if below else ">", nearest_value)
    return backend.compare(name, "<" if below else ">=", nearest_value)


def _parse_timestamp(name: str, dtype: pa.DataType, literal: Constant) -> datetime:
    try:
        moment = parse_time(str(literal))
    except ValueError:
        raise UserError(
            f"--where: {name} holds times: compare it with a time in quotes, such as '2024-05-01 13:30'"
        ) from None
    if dtype.tz is None and moment.tzinfo is not None:
        raise UserError(
            f"--where: {name} holds times without a time zone: remove it from '{_shorten(str(literal))}'"
        )
    if dtype.tz is not None and moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment


def _parse_literal(name: str, token: Token) -> Constant:
    kind, text = token
    if kind == "number":
        number = float(text)
        if not math.isfinite(number):
            raise UserError(
                f"--where: {name} is compared with {_shorten(text)}: a number is at most 1.79e308"
            )
        return int(text) if re.fullmatch(r"[+-]?[0-9]+", text) else number
    if kind == "text":
        return _unquote(text)
    if kind == "keyword" and text in ("true", "false"):
        return text == "true"
    if kind in ("word", "quoted"):
        raise UserError(
            f"--where: {name} is compared with {_shorten(text)}: write text in quotes, '{_shorten(text)}'"
        )
    raise UserError(
        f"--where: expected a value for '{name}' but found {_shorten(text)}: write a number or 'text'"
    )


def _unquote(text: str) -> str:
    return text[1:-1].replace(text[0] * 2, text[0])


def _optional_not(tokens: Tokens) -> tuple[Tokens, bool]:
    return (tokens[1:], True) if tokens[0] == ("keyword", "not") else (tokens, False)


def _expect(tokens: Tokens, expected: tuple[str, str]) -> Tokens:
    if tokens[0] != expected:
        raise UserError(f"--where: expected '{expected[1]}' but found {_shorten(tokens[0].text)}")
    return tokens[1:]


def _shorten(token: str) -> str:
    """Shortens a token of the condition for a message."""
    return token if len(token) <= 40 else f"{token[:30]}... ({len(token)} characters)"
