"""The golden CLIP folder, and copies of it that a test may change."""

import json
import shutil
from pathlib import Path

from tpr_jax.weights.files import read_state, write_state

FOLDER = Path(__file__).parent / "golden" / "hf_clip"
OPEN_CLIP = Path(__file__).parent / "golden" / "open_clip"
IMAGE_MEAN, IMAGE_STD = (0.1, 0.5, 0.8), (0.9, 0.25, 0.5)  # other than CLIP's


def read_golden() -> tuple[dict, dict]:
    """Returns its weights and its config.json."""
    return read_state(FOLDER / "model.safetensors"), json.loads((FOLDER / "config.json").read_text())


def copy_golden(folder: Path) -> Path:
    """Copies the golden CLIP into a folder."""
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(FOLDER / name, folder / name)
    return folder


def set_image_constants(folder: Path, mean=IMAGE_MEAN, std=IMAGE_STD) -> Path:
    """Replaces the mean and std in a folder's preprocessor_config.json."""
    edit_json(folder / "preprocessor_config.json", image_mean=mean, image_std=std)
    return folder


def edit_json(path, **changes):
    """Replaces values of a JSON file; `section__key` is a nested key."""
    content = json.loads(path.read_text())
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (content[section] if section else content)[name] = value
    path.write_text(json.dumps(content))


def edit_state(folder, **changes):
    """Replaces weights (dots are written as __); None removes one."""
    path = folder / "model.safetensors"
    state = dict(read_state(path)) | {name.replace("__", "."): array for name, array in changes.items()}
    write_state(path, {name: array for name, array in state.items() if array is not None})


def copy_open_clip(folder: Path, **changes) -> Path:
    """Copies the golden CLIP in OpenCLIP's form; `vision_cfg__layers=3` changes its config, None removes."""
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        shutil.copyfile(OPEN_CLIP / name, folder / name)
    path = folder / "open_clip_config.json"
    path.write_text(json.dumps(open_clip_config(**changes)))
    return folder


def open_clip_config(**changes) -> dict:
    """Returns the golden config with changes, as for `copy_open_clip`."""
    content = json.loads((OPEN_CLIP / "open_clip_config.json").read_text())
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        at = content if section == "preprocess_cfg" else content["model_cfg"]
        target = at[section] if section else at
        if value is None:
            target.pop(name)
        else:
            target[name] = value
    return content
