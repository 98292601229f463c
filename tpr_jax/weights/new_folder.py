"""Writes a model into a folder that is new, all at once."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tpr_jax.errors import UserError


def check_new_folder(out: Path) -> None:
    """Rejects a folder that exists, unless it is empty.

    Raises:
      UserError: it is a file, or holds files.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: already exists; name a new folder")


def write_new_folder(out: Path, save: Callable[[Path], object]) -> None:
    """Saves a model under a temporary name beside `out` and renames it when it is complete.

    Args:
      out: the folder to create.
      save: saves the model in a folder that it is given, such as `Model.save_pretrained`.

    Raises:
      UserError: the folder cannot be written, or appeared in the meantime.
    """
    stage = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        save(stage / out.name)
        (stage / out.name).rename(out)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror}); check the folder") from error
    except UserError as error:
        raise UserError(str(error).replace(str(stage), str(out.parent))) from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
