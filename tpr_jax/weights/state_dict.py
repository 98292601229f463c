"""Cleans up state dicts of training code: names with wrapper prefixes, scalars in arrays of size 1.

`files` reads state dicts from disk; `name_maps` maps their names to ours.
"""

from collections.abc import Mapping

import numpy as np

from tpr_jax.errors import UserError

# Wrappers of training code prefix the name of each weight, or insert a component into it.
PREFIXES = ("module", "model", "clip_model", "clip")
INSERTED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def unwrap_names(state: Mapping[str, np.ndarray], where: str = "weights") -> dict[str, np.ndarray]:
    """Removes the names of wrappers from the names of the weights.

    The prefixes `module.` (DataParallel), `model.` and `clip.` (training frameworks) are removed, and
    `_orig_mod.` (torch.compile) and the wrappers of sharded training anywhere in the name.

    Raises:
      UserError: two weights get the same name.
    """
    unwrapped, originals = {}, {}
    for name, array in state.items():
        short = ".".join(part for part in str(name).split(".") if part not in INSERTED)
        while "." in short and short.split(".")[0] in PREFIXES:
            short = short.partition(".")[2]
        if short in unwrapped:
            raise UserError(
                f"{where}: weights {originals[short]!r} and {str(name)!r} are both {short!r}; "
                "keep one of them"
            )
        unwrapped[short], originals[short] = array, str(name)
    return unwrapped


def scalar(state: Mapping[str, np.ndarray], name: str, default: float, where: str = "weights") -> float:
    """Returns the scalar under `name`, an array of size 1, or the default if there is none.

    Raises:
      UserError: the array has several elements, or the value is not finite.
    """
    value = np.asarray(state.get(name, default))
    if value.size != 1:
        raise UserError(f"{where}: weight {name!r} has shape {list(value.shape)}, expected one number")
    number = float(value.reshape(()))
    if not np.isfinite(number):
        raise UserError(f"{where}: weight {name!r} is {number}, expected a finite number")
    return number
