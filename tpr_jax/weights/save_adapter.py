"""Writing the folder of a model: what was trained, and what it was trained on.

    config.json           the method, image settings, and the name and SHA-256 of the backbone
    adapter.safetensors   the trained leaves, `collection/tower/.../leaf`
    tokenizer.json        where the backbone's place does not have the same
    backbone/             CLIP in Hugging Face's format, where it is to be found nowhere else
    README.md             the model card

A model without parts whose weights are all its own is a plain Hugging Face CLIP folder instead.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

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
from tpr_jax.weights.hub import HUB_ID
from tpr_jax.weights.method_json import method_to_json
from tpr_jax.weights.model_card import MARK, SCORES, model_card
from tpr_jax.weights.openai import with_grid

MODEL_TYPE = "tpr_jax"
FORMAT_VERSION = 1
ADAPTER = "adapter.safetensors"
BUNDLED_BACKBONE = "./backbone"  # the name of a backbone that lies in the saved folder itself
CLIP_FILES = ("model.safetensors", "preprocessor_config.json")  # of `save_clip`, beside config.json
POSITIONS = "visual/positional_embedding"


def trained_leaves(method: Method, variables: Mapping) -> dict[str, np.ndarray]:
    """What `adapter.safetensors` holds: the method's collections and the leaves of CLIP that it tunes.

    The heads of losses are no part of it: they belong to the identities of the training and play no part in
    retrieval.
    """
    trained, _ = split_collections(variables, method.trainable, method.tuned)
    return flatten(trained)


def is_plain_clip(method: Method, variables: Mapping, backbone: Backbone | None) -> bool:
    """Whether CLIP's own format holds all there is: no parts, and not a few tuned weights of a CLIP that can
    be found."""
    if method.vision or method.text or method.prompts:
        return False
    if backbone is None or not method.tuned:
        return True
    return len(trained_leaves(method, variables)) == len(flatten(variables["params"]))


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
    """Writes a model; each file appears whole or not at all, and config.json after the weights.

    `variables` holds the method's collections and `params` (of a `backbone` that can be found, only the tuned
    leaves are written). `card` are the arguments of `model_card` that the model does not tell. A README.md of
    the user's own stays as it is.

    Raises:
      UserError: the folder cannot be written, or holds something else that a model would replace.
    """
    folder = Path(folder)
    plain = is_plain_clip(method, variables, backbone)
    card_text = _card(folder, config, method, variables, None if plain else backbone, plain, card)
    check_place(folder, plain, backbone)
    if plain:
        writes = tokenizer.backend.save if tokenizer is not None else None
        save_clip(folder, config, _numpy(variables["params"]), tokenizer=writes, checked=True)
    else:
        _write_adapted(folder, config, method, variables, backbone, tokenizer)
    readme = folder / "README.md"
    if readme.is_file() and MARK not in readme.read_text(encoding="utf-8", errors="replace"):
        return
    write_text(readme, card_text)


def _card(folder, config, method, variables, backbone, plain, card) -> str:
    """The model card; made first, so that unusable arguments leave the folder as it was."""
    named = None if plain else backbone.name if backbone else BUNDLED_BACKBONE
    everything = flatten({name: tree for name, tree in variables.items() if name != "head"})
    counts = {"trainable": trained_leaves(method, variables), "total": everything}
    _check_card(card)
    return model_card(
        method,
        where=str(folder),
        params={name: sum(np.size(leaf) for leaf in leaves.values()) for name, leaves in counts.items()},
        image_size=config.image_size,
        backbone=named,
        hub_id=named is not None and HUB_ID.fullmatch(named) is not None,
        **card,
    )


# What the card takes from a run's files.
CARD = {
    "results": ("dataset", "trainable_params", "total_params", "zero_shot.test", "final.test"),
    "training": ("dataset",),
}


def _check_card(card: Mapping) -> None:
    """Raises an ArgumentError where `results` or `training` is not what a run writes."""
    for name, keys in CARD.items():
        given = card.get(name)
        if given is None:
            continue
        file = {"results": "results.json", "training": "config.json"}[name]
        if not isinstance(given, Mapping):
            raise ArgumentError(f"{name} must hold a run's {file} (a dict), not {type(given).__name__}")
        scores = [key for key in keys if key.endswith(".test")]
        scores += [
            f"{key}.test" for key in ("best_on_val", "best_on_test") if name == "results" and given.get(key)
        ]
        for key in keys:
            if _at(given, key) is None:
                raise ArgumentError(f"{name} has no {key!r}: give the contents of a run's {file}")
        for key in scores:
            for way in ("t2i", "i2t"):
                for score in SCORES:
                    value = _at(given, f"{key}.{way}.{score}")
                    if not isinstance(value, int | float) or isinstance(value, bool):
                        raise ArgumentError(
                            f"{name} has no number at {f'{key}.{way}.{score}'!r}: give a run's {file}"
                        )


def _at(tree, path: str):
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _write_adapted(folder, config, method, variables, backbone, tokenizer) -> None:
    """Everything but the card."""
    leaves = {path: np.asarray(leaf, np.float32) for path, leaf in trained_leaves(method, variables).items()}
    if backbone is None:
        params = _numpy(variables["params"])
        backbone = Backbone(BUNDLED_BACKBONE, folder / BUNDLED_BACKBONE)
        save_clip(backbone.path, config, params, checked=True)
        if not _positions_come_back(config, params):
            leaves[f"params/{POSITIONS}"] = params["visual"]["positional_embedding"]
    was_bundled = backbone.name != BUNDLED_BACKBONE and _has_bundled_backbone(folder)
    same = tokenizer and backbone_tokenizer(backbone.path, config, tokenizer.context_length)
    beside = tokenizer is not None and (same is None or same.backend.to_str() != tokenizer.backend.to_str())
    files = {ADAPTER: lambda path: write_state(path, leaves)}
    if beside:
        files["tokenizer.json"] = tokenizer.backend.save
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
            "tokenizer": "tokenizer.json" if beside else "backbone",
            "text_length": tokenizer.context_length if tokenizer else config.context_length,
        },
    )
    if was_bundled and backbone.path.resolve() != (folder / BUNDLED_BACKBONE).resolve():
        save_folder.remove(folder / BUNDLED_BACKBONE)


def _has_bundled_backbone(folder: Path) -> bool:
    """Whether the model that was saved in a folder has its CLIP there too."""
    found = (save_folder.read_config(folder) or {}).get("backbone")
    return isinstance(found, dict) and found.get("name") == BUNDLED_BACKBONE


def check_place(folder: Path, plain: bool, backbone: Backbone | None) -> None:
    """Refuses a folder that holds anything of a model's kind that no earlier save of this kind wrote.

    Raises:
      UserError: the folder is the backbone's own, its config.json says that it is something else, or it holds
        a file that would be replaced or mixed with what is to be written.
    """
    kind = "clip" if plain else MODEL_TYPE
    if backbone is not None and folder.resolve() == backbone.path.resolve():
        raise UserError(f"{folder}: is the backbone's own folder; save the model to another one")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is no folder; save the model to another place")
    found = save_folder.read_config(folder)
    if found is not None and found.get("model_type") not in (kind, save_folder.INTERRUPTED):
        raise UserError(
            f"{folder / save_folder.CONFIG}: is not of a model like this one and would be replaced; save to "
            "another folder, or move this one away"
        )
    found = found or {}
    own = _has_bundled_backbone(folder)
    if kind != "clip" and backbone is None and (folder / BUNDLED_BACKBONE).exists() and not own:
        raise UserError(
            f"{folder / BUNDLED_BACKBONE}: is not of this model and would be replaced; save to another folder, or move "
            "this one away"
        )
    first_version = save_folder.RECORD not in found  # which recorded nothing
    if plain and found and first_version:
        raise UserError(
            f"{folder / save_folder.CONFIG}: was not written by an earlier save here and would be replaced; save "
            "to another folder, or move this one away"
        )
    save_folder.check(folder, own=(ADAPTER, "tokenizer.json") if found and first_version else ())
    if not plain and backbone is None:
        inside = folder / BUNDLED_BACKBONE
        unrecorded = save_folder.RECORD not in (save_folder.read_config(inside) or {})
        save_folder.check(inside, own=(*CLIP_FILES, "tokenizer.json") if own and unrecorded else ())


def _positions_come_back(config: ClipConfig, params: Mapping) -> bool:
    """Whether position embeddings stored as the square of Hugging Face's format are read back unchanged."""
    side = max(config.grid)
    square = dataclasses.replace(config, image_size=(side * config.patch_size,) * 2)
    again = with_grid(with_grid(params, square, config.grid), config, square.grid)
    return np.array_equal(*(p["visual"]["positional_embedding"] for p in (again, params)))


def _numpy(tree: Mapping) -> dict:
    return unflatten({path: np.asarray(leaf, np.float32) for path, leaf in flatten(tree).items()})
