"""Writing the folder of a model: what was trained, and what it was trained on.

    config.json           the method, image settings, and the name and SHA-256 of the backbone
    adapter.safetensors   the trained leaves, `collection/tower/.../leaf`
    tokenizer.json        where the backbone's place does not have the same
    backbone/             CLIP in Hugging Face's format, where it is to be found nowhere else
    README.md             the model card

A model without parts whose weights are all its own is a plain Hugging Face CLIP folder instead.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tpr_jax.data.tokenizer import Tokenizer
from tpr_jax.errors import UserError
from tpr_jax.model_card import MARK, model_card
from tpr_jax.models.config import ClipConfig
from tpr_jax.models.methods import Method
from tpr_jax.optim import split_collections
from tpr_jax.trees import flatten, unflatten
from tpr_jax.weights.backbone import Backbone, sha256, tokenizer_of
from tpr_jax.weights.clip import save_clip
from tpr_jax.weights.files import write_state
from tpr_jax.weights.hub import HUB_ID
from tpr_jax.weights.method_json import method_to_plain
from tpr_jax.weights.openai import with_grid
from tpr_jax.writing import write_json, write_text, write_whole

MODEL_TYPE = "tpr_jax"
FORMAT_VERSION = 1
ADAPTER = "adapter.safetensors"
INSIDE = "./backbone"  # the name of a backbone that lies in the saved folder itself
POSITIONS = "visual/positional_embedding"


def trained_leaves(method: Method, variables: Mapping) -> dict[str, np.ndarray]:
    """What `adapter.safetensors` holds: the method's collections and the leaves of CLIP that it tunes.

    The heads of losses are no part of it: they belong to the identities of the training and play no part in
    retrieval.
    """
    trained, _ = split_collections(variables, method.trainable, method.tuned)
    return flatten(trained)


def is_plain(method: Method, variables: Mapping, backbone: Backbone | None) -> bool:
    """Whether CLIP's own format holds all there is: no parts, and not a few tuned weights of a CLIP that can
    be found."""
    if method.vision or method.text or method.prompts:
        return False
    if backbone is None or not method.tuned:
        return True
    return len(trained_leaves(method, variables)) == len(flatten(variables["params"]))


def write_saved(
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
    plain = is_plain(method, variables, backbone)
    _check_place(folder, "clip" if plain else MODEL_TYPE, backbone)
    named = None
    if plain:
        save_clip(folder, config, _numpy(variables["params"]))
        if tokenizer is not None:
            write_whole(folder / "tokenizer.json", tokenizer.backend.save)
    else:
        named = _write_adapted(folder, config, method, variables, backbone, tokenizer)
    readme = folder / "README.md"
    if readme.is_file() and MARK not in readme.read_text(encoding="utf-8", errors="replace"):
        return
    everything = flatten({name: tree for name, tree in variables.items() if name != "head"})
    counts = {"trainable": trained_leaves(method, variables), "total": everything}
    text = model_card(
        method,
        where=str(folder),
        params={name: sum(np.size(leaf) for leaf in leaves.values()) for name, leaves in counts.items()},
        image_size=config.image_size,
        backbone=named,
        hub_id=named is not None and HUB_ID.fullmatch(named) is not None,
        **card,
    )
    write_text(readme, text)


def _write_adapted(folder, config, method, variables, backbone, tokenizer) -> str:
    """Everything but the card; returns the backbone's name."""
    leaves = {path: np.asarray(leaf, np.float32) for path, leaf in trained_leaves(method, variables).items()}
    if backbone is None:
        params = _numpy(variables["params"])
        backbone = Backbone(INSIDE, folder / INSIDE)
        save_clip(backbone.path, config, params)
        if not _positions_come_back(config, params):
            leaves[f"params/{POSITIONS}"] = params["visual"]["positional_embedding"]
    same = tokenizer and tokenizer_of(backbone.path, config, tokenizer.context_length)
    beside = tokenizer is not None and (same is None or same.backend.to_str() != tokenizer.backend.to_str())
    if beside:
        write_whole(folder / "tokenizer.json", tokenizer.backend.save)
    write_state(folder / ADAPTER, leaves)
    write_json(
        folder / "config.json",
        {
            "model_type": MODEL_TYPE,
            "format_version": FORMAT_VERSION,
            "method": method_to_plain(method),
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
    return backbone.name


def _check_place(folder: Path, kind: str, backbone: Backbone | None) -> None:
    """Refuses a folder whose config.json says that it is something else than what is to be written."""
    if kind != "clip" and backbone is not None and folder.resolve() == backbone.path.resolve():
        raise UserError(f"{folder}: is the backbone's own folder; save the model to another one")
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        found = {"model_type": kind}
    except NotADirectoryError as error:
        raise UserError(f"{folder}: is no folder; save the model to another place") from error
    except (OSError, ValueError):
        found = None
    found = found if isinstance(found, dict) else {}
    if found.get("model_type") != kind:
        raise UserError(
            f"{path}: is not of a model like this one and would be replaced; save to another folder, or move "
            "this one away"
        )
    own = isinstance(found.get("backbone"), dict) and found["backbone"].get("name") == INSIDE
    if kind != "clip" and backbone is None and (folder / INSIDE).exists() and not own:
        raise UserError(
            f"{folder / INSIDE}: is not of this model and would be replaced; save to another folder, or move "
            "this one away"
        )


def _positions_come_back(config: ClipConfig, params: Mapping) -> bool:
    """Whether position embeddings stored as the square of Hugging Face's format are read back unchanged."""
    side = max(config.grid)
    square = dataclasses.replace(config, image_size=(side * config.patch_size,) * 2)
    again = with_grid(with_grid(params, square, config.grid), config, square.grid)
    return np.array_equal(*(p["visual"]["positional_embedding"] for p in (again, params)))


def _numpy(tree: Mapping) -> dict:
    return unflatten({path: np.asarray(leaf, np.float32) for path, leaf in flatten(tree).items()})
