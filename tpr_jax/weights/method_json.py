"""Converts a method to JSON and back, for the config.json of a saved model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tpr_jax.errors import UserError
from tpr_jax.models.methods import Method
from tpr_jax.models.petl_config import PARTS, Part, Prompts


def method_to_json(method: Method) -> dict:
    """Converts a method to dicts and lists; each module names its kind under `part`, as in a config."""

    def to_dict(part) -> dict:
        return {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(part).items()}

    return {
        "name": method.name,
        "vision": [{"part": part.kind, **to_dict(part)} for part in method.vision],
        "text": [{"part": part.kind, **to_dict(part)} for part in method.text],
        "prompts": to_dict(method.prompts) if method.prompts else None,
        "tuned": list(method.tuned),
    }


def method_from_json(content: Mapping, where: str) -> Method:
    """Converts back what `method_to_json` returns; `where` begins error messages.

    Raises:
      UserError: a part, setting or key is missing or unknown. `methods.check` checks the values.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: is not a set of keys; save the model again")
    missing = [field.name for field in dataclasses.fields(Method) if field.name not in content]
    if missing:
        raise UserError(f"{where}: key '{missing[0]}' is missing; save the model again")

    def parts(tower: str) -> tuple:
        parsed = []
        for i, settings in enumerate(_expect(list, content[tower], f"{where}.{tower}")):
            kind = _expect(Mapping, settings, f"{where}.{tower}[{i}]").get("part")
            if kind not in PARTS:
                raise UserError(
                    f"{where}.{tower}[{i}]: part={kind!r} is unknown to this version, which supports "
                    f"{', '.join(PARTS)}; a newer tpr_jax may support it"
                )
            kwargs = {key: value for key, value in settings.items() if key != "part"}
            parsed.append(_build_part(PARTS[kind], kwargs, f"{where}.{tower}[{i}]"))
        return tuple(parsed)

    prompts = content["prompts"]
    return Method(
        str(content["name"]),
        parts("vision"),
        parts("text"),
        None
        if prompts is None
        else _build_part(Prompts, _expect(Mapping, prompts, f"{where}.prompts"), f"{where}.prompts"),
        tuple(str(pattern) for pattern in _expect(list, content["tuned"], f"{where}.tuned")),
    )


def _build_part(kind: type[Part] | type[Prompts], settings: Mapping, where: str):
    """Builds a part from all of its settings: a default may change in a later version."""
    known = [field.name for field in dataclasses.fields(kind)]
    for key in known:
        if key not in settings:
            raise UserError(f"{where}: setting '{key}' is missing; save the model again")
    for key in settings:
        if key not in known:
            raise UserError(
                f"{where}: setting '{key}' is unknown to this version; a newer tpr_jax may support it"
            )
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()}
    return kind(**values)


def _expect(kind: type, value, where: str):
    if not isinstance(value, kind):
        raise UserError(f"{where}: has the invalid value {value!r}; save the model again")
    return value
