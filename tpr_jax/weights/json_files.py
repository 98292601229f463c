"""Reads the JSON files of a model's folder."""

import json
from pathlib import Path

from tpr_jax.errors import UserError


def read_json(path: Path) -> dict:
    """Reads a JSON object.

    Raises:
      UserError: the file is missing, cannot be read, or does not hold an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; the folder is not in Hugging Face's CLIP format") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); restore the original file") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: does not hold a JSON object; restore the original file")
    return content
