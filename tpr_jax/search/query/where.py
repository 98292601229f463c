"""Conditions on the columns of an index, such as `camera=3 and time>='2024-05-01'`, read without `eval`.

    condition   = term {"or" term}          term = factor {"and" factor}
    factor      = "not" factor | "(" condition ")" | comparison
    comparison  = column (= == != <> < <= > >=) value
                | column ["not"] "in" "(" value {"," value} ")"
                | column ["not"] "like" 'text with % and _'
                | column "is" ["not"] "null"
    value       = number | 'text' | "text" | true | false

A column whose name is not one word stands in backquotes. As in SQL, a comparison with a value that is missing
is neither true nor false, and what is not true is not found.
"""

import math
import re
from collections.abc import Sequence
from datetime import UTC

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool

from tpr_jax.config.defaults import nearest
from tpr_jax.errors import UserError
from tpr_jax.search.index.table import is_utf8, parse_time

TOKEN = re.compile(
    r"""\s*(?:(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?!\w)
    |(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
    |(?P<word>[^\W\d]\w*)
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


def matching(table: pa.Table, condition: str) -> Bool[np.ndarray, " n"]:
    """Which rows of the table a condition holds for.

    Raises:
      UserError: the condition is not understood, names an unknown column, or compares it with a value of
        another kind.
    """
    if len(condition) > MAX_LENGTH:
        raise UserError(f"--where: {len(condition)} characters are too many: at most {MAX_LENGTH}")
    if not is_utf8(condition):
        raise UserError("--where: has half of a surrogate pair, or bytes that are not UTF-8: write it anew")
    try:
        mask, rest = _either(table, _tokens(condition), 0)
        if rest[0][0] != "end":
            raise UserError(f"--where: '{_brief(rest[0][1])}' is not expected: join conditions by and, or")
        return pc.fill_null(mask, False).to_numpy(zero_copy_only=False)
    except UserError as error:  # names of columns may hold anything
        raise UserError(_printable(str(error))) from None
    except pa.ArrowException as error:
        raise UserError(f"--where: cannot be used ({_printable(str(error))[:200]}): simplify it") from error


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, at = [], 0
    text = text.rstrip()
    while at < len(text):
        found = TOKEN.match(text, at)
        if not found:
            raise UserError(
                f"--where: cannot read '{text[at : at + 20].strip()}': write as in camera=3 and "
                "time>='2024-05-01', texts in quotes"
            )
        kind, value, at = found.lastgroup, found[found.lastgroup], found.end()
        if kind == "word" and value.lower() in KEYWORDS:
            kind, value = "keyword", value.lower()
        tokens.append((kind, value))
    if not tokens:
        raise UserError("--where: the condition is empty: write as in camera=3")
    return [*tokens, ("end", "the end")]


# Each of these takes what is left of the tokens, and returns a mask and what is then left.
def _either(table, tokens, depth):
    if depth > MAX_DEPTH:
        raise UserError(f"--where: more than {MAX_DEPTH} brackets within each other")
    mask, rest = _both(table, tokens, depth)
    while rest[0] == ("keyword", "or"):
        other, rest = _both(table, rest[1:], depth)
        mask = pc.or_kleene(mask, other)
    return mask, rest


def _both(table, tokens, depth):
    mask, rest = _factor(table, tokens, depth)
    while rest[0] == ("keyword", "and"):
        other, rest = _factor(table, rest[1:], depth)
        mask = pc.and_kleene(mask, other)
    return mask, rest


def _factor(table, tokens, depth):
    if tokens[0] == ("keyword", "not"):
        if depth > MAX_DEPTH:
            raise UserError(f"--where: more than {MAX_DEPTH} times 'not'")
        mask, rest = _factor(table, tokens[1:], depth + 1)
        return pc.invert(mask), rest
    if tokens[0] == ("sign", "("):
        mask, rest = _either(table, tokens[1:], depth + 1)
        return mask, _after(rest, ("sign", ")"))
    return _comparison(table, tokens)


def _comparison(table, tokens):
    kind, name = tokens[0]
    if kind not in ("word", "quoted"):
        raise UserError(f"--where: found {_brief(name)} where a column's name should be, as in camera=3")
    if name not in table.column_names:
        raise UserError(f"--where: column '{_brief(name)}' is unknown: {nearest(name, table.column_names)}")
    values, rest = table[name].combine_chunks(), tokens[1:]
    if rest[0] == ("keyword", "is"):
        rest, negative = _optional_not(rest[1:])
        mask = pc.is_null(values)
        return (pc.invert(mask) if negative else mask), _after(rest, ("keyword", "null"))
    kind, sign = rest[0]
    if sign in COMPARISONS and kind == "sign":
        return _compare(name, values, sign, rest[1]), rest[2:]
    rest, negative = _optional_not(rest)
    if rest[0] == ("keyword", "in"):
        mask, rest = _is_in(name, values, _after(rest[1:], ("sign", "(")))
    elif rest[0] == ("keyword", "like"):
        if not pa.types.is_string(values.type) or rest[1][0] != "text":
            raise UserError(f"--where: {name} like ...: needs a column of texts and a text in quotes")
        mask, rest = _is_like(values, _unquoted(rest[1][1])), rest[2:]
    else:
        raise UserError(
            f"--where: found {_brief(rest[0][1])} behind '{name}': compare it by =, !=, <, <=, >, >=, in, "
            "like or is"
        )
    return (pc.invert(mask) if negative else mask), rest


def _is_like(values, pattern: str) -> pa.Array:
    if "\\" not in pattern:
        return pc.match_like(values, pattern)
    # In SQL a backslash is one. Arrow takes it for an escape, and not even everywhere for the same.
    wild = {"%": ".*", "_": "."}
    regex = "".join(
        wild.get(c) or (c if c.isalnum() or ord(c) > 127 else f"\\x{ord(c):02x}") for c in pattern
    )
    return pc.match_substring_regex(values, rf"(?s)\A{regex}\z")


def _is_in(name, values, rest):
    mask = None
    while True:
        same = _compare(name, values, "=", rest[0])
        mask = same if mask is None else pc.or_kleene(mask, same)
        if rest[1] != ("sign", ","):
            return mask, _after(rest[1:], ("sign", ")"))
        rest = rest[2:]


def _compare(name: str, values: pa.Array, sign: str, token: tuple[str, str]) -> pa.Array:
    literal = _value(name, token)
    kind = values.type
    if pa.types.is_null(kind):  # a column without any value
        return pa.nulls(len(values), pa.bool_())
    if pa.types.is_timestamp(kind):
        literal = _as_time(name, kind, literal)
    elif pa.types.is_string(kind) != isinstance(literal, str):
        wanted = "texts, so write the value in quotes" if pa.types.is_string(kind) else "numbers, not texts"
        wanted = "true or false" if pa.types.is_boolean(kind) else wanted
        raise UserError(f"--where: {name} {sign} {_brief(token[1])}: the column holds {wanted}")
    elif pa.types.is_boolean(kind) != isinstance(literal, bool):
        wanted = "true or false" if pa.types.is_boolean(kind) else "numbers"
        raise UserError(f"--where: {name} {sign} {_brief(token[1])}: the column holds {wanted}")
    elif not isinstance(literal, str | bool):
        return _compare_numbers(values, sign, literal)
    return COMPARISONS[sign](values, pa.scalar(literal))


def _compare_numbers(values: pa.Array, sign: str, number: int | float) -> pa.Array:
    """Compares exactly, also where the column's type cannot hold the number: 2**53 + 1, 2**63 or 0.5, say."""
    if pa.types.is_integer(values.type):
        held = min(max(math.floor(number), -(2**63)), 2**63 - 1)
    else:
        held = float(number)
    near = pa.scalar(held)
    if number == held:
        return COMPARISONS[sign](values, near)
    if sign in ("=", "==", "!=", "<>"):
        never = pc.and_kleene(pc.less(values, near), pc.greater(values, near))
        return never if sign in ("=", "==") else pc.invert(never)
    below = sign in ("<", "<=")  # of the two values around the number, `held` is the lower or the upper one
    if number > held:
        return pc.less_equal(values, near) if below else pc.greater(values, near)
    return pc.less(values, near) if below else pc.greater_equal(values, near)


def _as_time(name: str, kind: pa.DataType, literal) -> pa.Scalar:
    try:
        moment = parse_time(literal)
    except (TypeError, ValueError):
        raise UserError(
            f"--where: {name} holds times: compare it with one in quotes, as '2024-05-01 13:30'"
        ) from None
    if kind.tz is None and moment.tzinfo is not None:
        raise UserError(f"--where: {name} holds times without a zone: leave it out of '{_brief(literal)}'")
    if kind.tz is not None and moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return pa.scalar(moment, kind)


def _value(name: str, token: tuple[str, str]):
    kind, text = token
    if kind == "number":
        number = float(text)
        if not math.isfinite(number):
            raise UserError(f"--where: {name} is compared with {_brief(text)}: a number is at most 1.79e308")
        return int(text) if re.fullmatch(r"[+-]?[0-9]+", text) else number
    if kind == "text":
        return _unquoted(text)
    if kind == "keyword" and text in ("true", "false"):
        return text == "true"
    if kind in ("word", "quoted"):
        raise UserError(
            f"--where: {name} is compared with {_brief(text)}: a text stands in quotes, '{_brief(text)}'"
        )
    raise UserError(f"--where: found {_brief(text)} where a value for '{name}' should be: a number or 'text'")


def _unquoted(text: str) -> str:
    return text[1:-1].replace(text[0] * 2, text[0])


def _optional_not(tokens: Sequence):
    return (tokens[1:], True) if tokens[0] == ("keyword", "not") else (tokens, False)


def _after(tokens: Sequence, wanted: tuple[str, str]):
    if tokens[0] != wanted:
        raise UserError(f"--where: found {_brief(tokens[0][1])} where '{wanted[1]}' should be")
    return tokens[1:]


def _brief(token: str) -> str:
    """A word of the condition, for a message."""
    return token if len(token) <= 40 else f"{token[:30]}... ({len(token)} characters)"


def _printable(text: str) -> str:
    """The same with line breaks and what no terminal shows spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
