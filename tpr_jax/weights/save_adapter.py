"""Saves a model: the trained arrays, and a reference to the backbone that they were trained on.

    config.json           the method, image settings, and the name and SHA-256 of the backbone
    adapter.safetensors   the trained arrays, `collection/tower/.../leaf`
    tokenizer.json        unless the backbone has the same one
    backbone/             CLIP in Hugging Face's format, if it cannot be loaded from elsewhere
    README.md             the model card

A CLIP without adapters whose weights are all tuned is saved as a plain Hugging Face CLIP folder instead, if
that keeps its position embedding exactly.
"""

import dataclasses
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from tpr_jax.data.tokenizer import Tokenizer
from tpr_jax.errors import ArgumentError, UserError
from tpr_jax.models.config import ClipConfig
from tpr_jax.models.methods import Method
from tpr_jax.optim import split_collections
from tpr_jax.utils.files import write_text
from tpr_jax.utils.trees import flatten, unflatten
from tpr_jax.weights import save_folder
from tpr_jax.weights.backbone import Backbone, backbone_tokenizer, sha256
from tpr_jax.weights.clip import save_clip
from tpr_jax.weights.files import write_state
from tpr_jax.weights.folder_format import ADAPTED as MODEL_TYPE
from tpr_jax.weights.hub import HUB_ID
from tpr_jax.weights.method_json import method_to_json
from tpr_jax.weights.model_card import SCORES, is_generated, model_card
from tpr_jax.weights.openai import with_grid

PLAIN_TYPES = ("clip", "siglip")  # model_type of a folder that `save_clip` writes
FORMAT_VERSION = 1
ADAPTER = "adapter.safetensors"
BUNDLED_BACKBONE = "./backbone"  # the name of a backbone inside the saved folder
CLIP_FILES = ("model.safetensors", "preprocessor_config.json")  # written by `save_clip`, beside config.json
POSITIONS = "visual/positional_embedding"


def trained_leaves(method: Method, variables: Mapping) -> dict[str, Any]:
    """Returns the contents of adapter.safetensors: the method's collections and the tuned leaves of CLIP.

    The leaves are arrays, or shapes if those of `variables` are. The heads of losses are left out: they
    depend on the training identities and retrieval does not use them.
    """
    trained, _ = split_collections(variables, method.trainable, method.tuned)
    return flatten(trained)


def is_plain_clip(config: ClipConfig, method: Method, variables: Mapping, backbone: Backbone | None) -> bool:
    """Returns whether a model is saved as a plain CLIP folder.

    This is the case if it has no adapters, either all of its weights are tuned or its backbone cannot be
    loaded from elsewhere, and the plain format keeps its positions, as it does not for images of 2:1.
    """
    if method.vision or method.text or method.prompts:
        return False
    whole = len(trained_leaves(method, variables)) == len(flatten(variables["params"]))
    if backbone is not None and method.tuned and not whole:
        return False
    positions = np.asarray(variables["params"]["visual"]["positional_embedding"], np.float32)
    return _positions_round_trip(config, positions)


def save_adapter(
    folder: str | os.PathLike,
    config: ClipConfig,
    method: Method,
    variables: Mapping,
    *,
    backbone: Backbone | None,
    tokenizer: Tokenizer | None = None,
    **card,
) -> None:
    """Writes a model; each file is written atomically, and config.json after the weights.

    Args:
      folder: created if missing. A README.md that the user wrote is kept.
      config: sizes of the towers.
      method: what was trained.
      variables: the method's collections and `params`.
      backbone: where `params`, except for the tuned leaves, can be loaded from; None saves them too.
      tokenizer: saved unless the backbone has the same one.
      **card: `results`, `training` and `adapted` of `model_card`; config.json holds `adapted` too.

    Raises:
      UserError: the folder cannot be written, or holds other files that a model would replace.
    """
    folder = Path(folder)
    plain = is_plain_clip(config, method, variables, backbone)
    backbone_name = None if plain else backbone.name if backbone else BUNDLED_BACKBONE
    # Built first, so that invalid arguments leave the folder unchanged.
    card_text = _make_card(folder, config, method, variables, backbone_name, card)
    check_save_folder(folder, plain, backbone)
    if plain:
        write_tokenizer = tokenizer.save if tokenizer is not None else None
        params = _to_numpy(variables["params"])
        length = tokenizer.length if tokenizer is not None else None
        save_clip(folder, config, params, tokenizer=write_tokenizer, text_length=length, checked=True)
    else:
        record = {"adapted": dict(card["adapted"])} if card.get("adapted") else {}
        _write_adapted(folder, config, method, variables, backbone, tokenizer, record=record)
    readme = folder / "README.md"
    if readme.is_file() and not is_generated(readme.read_text(encoding="utf-8", errors="replace")):
        return
    write_text(readme, card_text)


def _make_card(
    folder: Path,
    config: ClipConfig,
    method: Method,
    variables: Mapping,
    backbone_name: str | None,
    card: Mapping,
) -> str:
    """Returns the model card; `card` holds `results` and `training`."""
    _check_card(card)
    all_leaves = flatten({name: tree for name, tree in variables.items() if name != "head"})
    counts = {"trainable": trained_leaves(method, variables), "total": all_leaves}
    return model_card(
        method,
        where=str(folder),
        params={name: sum(np.size(leaf) for leaf in leaves.values()) for name, leaves in counts.items()},
        image_size=config.image_size,
        family=config.family,
        backbone=backbone_name,
        hub_id=backbone_name is not None and HUB_ID.fullmatch(backbone_name) is not None,
        **card,
    )


# The entries of a run's files that the card shows.
CARD_KEYS = {
    "results": ("dataset", "trainable_params", "total_params", "zero_shot.test", "final.test"),
    "training": ("dataset",),
}


def _check_card(card: Mapping) -> None:
    """Raises an ArgumentError if `results` or `training` is not what a run writes."""
    for name, keys in CARD_KEYS.items():
        content = card.get(name)
        if content is None:
            continue
        file = {"results": "results.json", "training": "config.json"}[name]
        if not isinstance(content, Mapping):
            raise ArgumentError(f"{name} must hold a run's {file} (a dict), not {type(content).__name__}")
        for key in keys:
            if _get(content, key) is None:
                raise ArgumentError(f"{name} has no {key!r}: give the contents of a run's {file}")
        optional = ("best_on_val", "best_on_test") if name == "results" else ()
        metrics = [key for key in keys if key.endswith(".test")]
        metrics += [f"{key}.test" for key in optional if content.get(key)]
        for key, direction, score in itertools.product(metrics, ("t2i", "i2t"), SCORES):
            path = f"{key}.{direction}.{score}"
            value = _get(content, path)
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ArgumentError(f"{name} has no number at {path!r}: give a run's {file}")


def _get(tree: object, path: str):
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _write_adapted(folder, config, method, variables, backbone, tokenizer, *, record) -> None:
    """Writes all files except for the card; `record` is added to config.json."""
    leaves = {path: np.asarray(leaf, np.float32) for path, leaf in trained_leaves(method, variables).items()}
    if backbone is None:
        params = _to_numpy(variables["params"])
        backbone = Backbone(BUNDLED_BACKBONE, folder / BUNDLED_BACKBONE)
        save_clip(backbone.path, config, params, checked=True)
        positions = params["visual"]["positional_embedding"]
        if not _positions_round_trip(config, positions):
            leaves[f"params/{POSITIONS}"] = positions
    was_bundled = backbone.name != BUNDLED_BACKBONE and _has_bundled_backbone(folder)
    default = tokenizer and backbone_tokenizer(backbone.path, config, tokenizer.length)
    save_tokenizer = tokenizer is not None and (
        default is None or default.backend.to_str() != tokenizer.backend.to_str()
    )
    files = {ADAPTER: lambda path: write_state(path, leaves)}
    if save_tokenizer:
        files["tokenizer.json"] = tokenizer.save
    save_folder.write(
        folder,
        files,
        lambda: {
            "model_type": MODEL_TYPE,
            "format_version": FORMAT_VERSION,
            "method": method_to_json(method),
            "backbone": {
                "name": backbone.name,
                **({"revision": backbone.revision} if backbone.revision else {}),
                "sha256": sha256(backbone.path),
                "act": config.act,
                "heads": [config.vision_heads, config.text_heads],
            },
            "image_size": list(config.image_size),
            "image_mean": list(config.image_mean),
            "image_std": list(config.image_std),
            "tokenizer": "tokenizer.json" if save_tokenizer else "backbone",
            "text_length": tokenizer.length if tokenizer else config.context_length,
            "context_length": config.context_length,
            **record,
        },
    )
    if was_bundled and backbone.path.resolve() != (folder / BUNDLED_BACKBONE).resolve():
        save_folder.remove(folder / BUNDLED_BACKBONE)


def _has_bundled_backbone(folder: Path) -> bool:
    """Returns whether a saved model has its backbone in its own folder."""
    backbone = (save_folder.read_config(folder) or {}).get("backbone")
    return isinstance(backbone, dict) and backbone.get("name") == BUNDLED_BACKBONE


def check_not_own(folder: Path, backbone: Backbone | None) -> None:
    """Rejects saving a model to the folder of the weights that it was made from.

    Raises:
      UserError: the folder is the backbone's own.
    """
    if backbone is not None and folder.resolve() == backbone.path.resolve():
        raise UserError(f"{folder}: is the backbone's own folder; save the model to another one")


def check_save_folder(folder: Path, plain: bool, backbone: Backbone | None) -> None:
    """Rejects a folder with model files that no earlier save of the same kind wrote.

    Args:
      folder: where the model is to be saved.
      plain: whether the model is saved as a plain CLIP folder.
      backbone: as for `save_adapter`.

    Raises:
      UserError: the folder is the backbone's own, its config.json is that of another kind of model, or it
        holds a file that would be replaced or mixed with the new ones.
    """
    kinds = PLAIN_TYPES if plain else (MODEL_TYPE,)
    check_not_own(folder, backbone)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is not a directory; save the model to another place")
    config = save_folder.read_config(folder)
    if config is not None and config.get("model_type") not in (*kinds, save_folder.INTERRUPTED):
        raise UserError(
            f"{folder / save_folder.CONFIG}: is not of a model like this one and would be replaced; save to "
            "another folder, or move this one away"
        )
    config = config or {}
    bundled = _has_bundled_backbone(folder)
    if not plain and backbone is None and (folder / BUNDLED_BACKBONE).exists() and not bundled:
        raise UserError(
            f"{folder / BUNDLED_BACKBONE}: is not of this model and would be replaced; save to another "
            "folder, or move this one away"
        )
    first_version = save_folder.RECORD not in config  # which recorded no files
    if plain and config and first_version:
        raise UserError(
            f"{folder / save_folder.CONFIG}: was not written by an earlier save here and would be replaced; "
            "save to another folder, or move this one away"
        )
    save_folder.check(folder, allowed=(ADAPTER, "tokenizer.json") if config and first_version else ())
    if not plain and backbone is None:
        inside = folder / BUNDLED_BACKBONE
        unrecorded = save_folder.RECORD not in (save_folder.read_config(inside) or {})
        save_folder.check(inside, allowed=(*CLIP_FILES, "tokenizer.json") if bundled and unrecorded else ())


def _positions_round_trip(config: ClipConfig, positions: Float[np.ndarray, "n d"]) -> bool:
    """Returns whether Hugging Face's format, with a square position embedding, keeps it exactly."""
    if not config.has_class_token:  # `siglip.to_siglip` stores a square that gives any grid back
        return True
    side = max(config.grid)
    square = dataclasses.replace(config, image_size=(side * config.patch_size,) * 2)
    params = {"visual": {"positional_embedding": positions}}
    restored = with_grid(with_grid(params, square, config.grid), config, square.grid)
    return np.array_equal(restored["visual"]["positional_embedding"], positions)


def _to_numpy(tree: Mapping) -> dict:
    return unflatten({path: np.asarray(leaf, np.float32) for path, leaf in flatten(tree).items()})
