"""A method as plain data and back, for the `config.json` of a saved model."""

import dataclasses
from collections.abc import Mapping

from tpr_jax.errors import UserError
from tpr_jax.models.methods import Method
from tpr_jax.models.petl_config import PARTS, Prompts


def method_to_plain(method: Method) -> dict:
    """Dicts, lists, texts and numbers; each part says its kind under `part`, as in a config."""

    def plain(part) -> dict:
        return {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(part).items()}

    return {
        "name": method.name,
        "vision": [{"part": part.kind, **plain(part)} for part in method.vision],
        "text": [{"part": part.kind, **plain(part)} for part in method.text],
        "prompts": plain(method.prompts) if method.prompts else None,
        "tuned": list(method.tuned),
    }


def method_from_plain(content: Mapping, where: str) -> Method:
    """The inverse of `method_to_plain`; `where` begins the message of an error.

    Raises:
      UserError: a part, setting or key is missing or unknown here. Whether the values fit a CLIP is for
        `methods.check` to say.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: is no set of keys; save the model again")
    missing = [field.name for field in dataclasses.fields(Method) if field.name not in content]
    if missing:
        raise UserError(f"{where}: key '{missing[0]}' is missing; save the model again")

    def parts(tower: str) -> tuple:
        found = []
        for i, settings in enumerate(_a(list, content[tower], f"{where}.{tower}")):
            kind = _a(Mapping, settings, f"{where}.{tower}[{i}]").get("part")
            if kind not in PARTS:
                raise UserError(
                    f"{where}.{tower}[{i}]: part={kind!r} is unknown to this version, which knows "
                    f"{', '.join(PARTS)}; a newer one of tpr_jax may"
                )
            own = {key: value for key, value in settings.items() if key != "part"}
            found.append(_filled(PARTS[kind], own, f"{where}.{tower}[{i}]"))
        return tuple(found)

    prompts = content["prompts"]
    return Method(
        str(content["name"]),
        parts("vision"),
        parts("text"),
        None
        if prompts is None
        else _filled(Prompts, _a(Mapping, prompts, f"{where}.prompts"), f"{where}.prompts"),
        tuple(str(pattern) for pattern in _a(list, content["tuned"], f"{where}.tuned")),
    )


def _filled(kind: type, settings: Mapping, where: str):
    """The part with these settings. All of them must be there: a default may be another one day."""
    known = [field.name for field in dataclasses.fields(kind)]
    for key in known:
        if key not in settings:
            raise UserError(f"{where}: setting '{key}' is missing; save the model again")
    for key in settings:
        if key not in known:
            raise UserError(
                f"{where}: setting '{key}' is unknown to this version; a newer one of tpr_jax may know it"
            )
    return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()})


def _a(kind: type, value, where: str):
    if not isinstance(value, kind):
        raise UserError(f"{where}: has the unusable value {value!r}; save the model again")
    return value
