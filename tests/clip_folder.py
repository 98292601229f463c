"""The golden CLIP folder, and copies of it that a test may change."""

import json
import shutil
from pathlib import Path

from tpr_jax.weights.files import read_state, write_state

FOLDER = Path(__file__).parent / "golden" / "hf_clip"


def read_golden() -> tuple[dict, dict]:
    """(its weights, its config.json)."""
    return read_state(FOLDER / "model.safetensors"), json.loads((FOLDER / "config.json").read_text())


def copy_golden(folder: Path) -> Path:
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(FOLDER / name, folder / name)
    return folder


def edit_json(path, **changes):
    content = json.loads(path.read_text())
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (content[section] if section else content)[name] = value
    path.write_text(json.dumps(content))


def edit_state(folder, **changes):
    """Replaces weights (dots written as __); None removes one."""
    path = folder / "model.safetensors"
    state = dict(read_state(path)) | {name.replace("__", "."): array for name, array in changes.items()}
    write_state(path, {name: array for name, array in state.items() if array is not None})
