"""The file reproduction.json: what it holds, and how it is written, read and validated."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tpr_jax.compare.spread import Spread
from tpr_jax.errors import UserError
from tpr_jax.metrics.retrieval import METRIC_KEYS
from tpr_jax.reproduce.copies import Copy
from tpr_jax.reproduce.rows import BEYOND, NOT_COMPARABLE, NOT_PUBLISHED, NOT_RUN, PROTOCOLS, WITHIN, Row
from tpr_jax.reproduce.transfer import Transfer
from tpr_jax.utils.files import write_json

FORMAT = "tpr_jax.reproduction"
VERSION = 2
READABLE = (1, 2)  # the first has no verdict NOT_PUBLISHED
NAME = "reproduction.json"
VERDICTS = (NOT_RUN, WITHIN, BEYOND, NOT_COMPARABLE, NOT_PUBLISHED)


@dataclass(frozen=True)
class Document:
    """The content of reproduction.json.

    Attributes:
      command: the command that wrote it.
      quick: whether the runs are those of --quick.
      data: the copy of each benchmark.
      weights: `name`, `revision` and `sha256` of the backbone; None before it is known.
      rows: the results on the benchmark that a method was trained on.
      transfer: the results on other benchmarks.
    """

    command: str
    quick: bool
    data: dict[str, Copy]
    weights: dict | None
    rows: list[Row]
    transfer: list[Transfer]


def write(path: Path, document: Document) -> None:
    """Writes a document as JSON.

    Raises:
      UserError: the folder cannot be written.
    """
    write_json(path, {"format": FORMAT, "version": VERSION, **asdict(document)})


def read(path: Path) -> Document:
    """Reads and validates a document.

    Raises:
      UserError: the file cannot be read, is of another program or version, or a field is wrong; one line.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): name a reproduction.json") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error}): ask for the file again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: was not written by tpr_jax.reproduce: name a reproduction.json")
    if content.get("version") not in READABLE:
        raise UserError(
            f"{path}: has version {shown(content.get('version'))}, and this program reads "
            f"{' and '.join(map(str, READABLE))}: use the version of tpr_jax that wrote it"
        )
    try:
        return parse(content)
    except InvalidFieldError as error:
        raise UserError(f"{path}: {error}: the file is damaged, ask for it again") from error


class InvalidFieldError(ValueError):
    """A field of a document is missing or has a wrong value; the message names it."""


def parse(content: Mapping) -> Document:
    """Builds a document from JSON values.

    Raises:
      InvalidFieldError: a field is missing or wrong.
    """
    data = {name: _copy(value, f"data.{name}") for name, value in _get(content, "data", dict).items()}
    weights = content.get("weights")
    if weights is not None:
        for key in ("name", "revision", "sha256"):
            _optional(_get(content, "weights", dict), key, str, "weights.")
    return Document(
        command=_get(content, "command", str),
        quick=_get(content, "quick", bool),
        data=data,
        weights=weights,
        rows=[_row(value, f"rows[{i}]") for i, value in enumerate(_get(content, "rows", list))],
        transfer=[_transfer(v, f"transfer[{i}]") for i, v in enumerate(_get(content, "transfer", list))],
    )


def _copy(value: Any, where: str) -> Copy:
    types = {"images": int, "image_bytes": int}
    value = _is(value, dict, where)
    names = [field.name for field in fields(Copy)]
    return Copy(**{name: _get(value, name, types.get(name, str), f"{where}.") for name in names})


def _row(value: Any, where: str) -> Row:
    value, at = _is(value, dict, where), f"{where}."
    protocol, verdict = _get(value, "protocol", str, at), _get(value, "verdict", str, at)
    if protocol not in PROTOCOLS:
        raise InvalidFieldError(f"{at}protocol is {shown(protocol)}, not one of {', '.join(PROTOCOLS)}")
    if verdict not in VERDICTS:
        raise InvalidFieldError(f"{at}verdict is {shown(verdict)}, not one of {', '.join(VERDICTS)}")
    ours = _get(value, "ours", dict, at)
    return Row(
        method=_get(value, "method", str, at),
        dataset=_get(value, "dataset", str, at),
        published=_numbers(value, "published", at),
        source=_get(value, "source", str, at),
        protocol=protocol,
        seeds=_get(value, "seeds", int, at),
        done=_get(value, "done", int, at),
        failed=_get(value, "failed", int, at),
        ours={name: _spreads(spreads, f"{at}ours.{name}") for name, spreads in ours.items()},
        difference=_numbers(value, "difference", at),
        verdict=verdict,
        reason=_get(value, "reason", str, at),
        hours=_optional(value, "hours", float, at),
        environments=[_is(v, dict, f"{at}environments") for v in _get(value, "environments", list, at)],
        weights_sha256=[_is(v, str, f"{at}weights_sha256") for v in _get(value, "weights_sha256", list, at)],
        recipe_sha256=_get(value, "recipe_sha256", str, at),
        commands=[_is(v, str, f"{at}commands") for v in _get(value, "commands", list, at)],
    )


def _transfer(value: Any, where: str) -> Transfer:
    value, at = _is(value, dict, where), f"{where}."
    names = [_get(value, key, str, at) for key in ("method", "trained_on", "tested_on")]
    return Transfer(*names, _spreads(_get(value, "ours", dict, at), f"{at}ours"))


def _spreads(value: Any, where: str) -> dict[str, Spread]:
    value = _is(value, dict, where)
    found = {}
    for key in METRIC_KEYS:
        at = f"{where}.{key}."
        one = _get(value, key, dict, f"{where}.")
        values = tuple(_is(score, float, f"{at}values") for score in _get(one, "values", list, at))
        found[key] = Spread(_get(one, "mean", float, at), _optional(one, "deviation", float, at), values)
    return found


def _numbers(value: Mapping, key: str, at: str) -> dict[str, float]:
    numbers = _get(value, key, dict, at)
    return {name: _is(number, float, f"{at}{key}.{name}") for name, number in numbers.items()}


def _get(content: Mapping, key: str, kind: type, at: str = "") -> Any:
    if key not in content:
        raise InvalidFieldError(f"{at}{key} is missing")
    return _is(content[key], kind, f"{at}{key}")


def _optional(content: Mapping, key: str, kind: type, at: str) -> Any:
    return None if content.get(key) is None else _get(content, key, kind, at)


def _is(value: Any, kind: type, where: str) -> Any:
    """Returns a value of the type; a whole number is also a float.

    Raises:
      InvalidFieldError: it has another type, or is not finite.
    """
    is_bool = isinstance(value, bool)
    fits = isinstance(value, (int, float) if kind is float else kind) and is_bool == (kind is bool)
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        raise InvalidFieldError(f"{where} is {shown(value)}, which is not a {_KINDS[kind]}")
    return value


_KINDS: dict[type, str] = {
    dict: "JSON object",
    list: "list",
    str: "string",
    int: "whole number",
    float: "finite number",
    bool: "true or false",
}


def shown(value: Any) -> str:
    """Returns a value for a message: at most forty characters."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def belongs_here(document: Document, folders: Sequence[Path]) -> bool:
    """Returns whether the results of a document come from runs in these folders, some of which must exist."""
    return all(row.done == 0 for row in document.rows) or any(folder.is_dir() for folder in folders)
