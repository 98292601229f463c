"""State dicts as training code leaves them: names with wrappers in front, numbers in arrays of one."""

from collections.abc import Mapping

import numpy as np

from tpr_jax.errors import UserError

# What training code wraps a model in leaves its name in front of each weight, or amid it.
WRAPPERS = ("module", "model", "clip_model", "clip")
AMID = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def unwrap_names(state: Mapping[str, np.ndarray], where: str = "weights") -> dict[str, np.ndarray]:
    """Returns `state` under the names that a model has by itself.

    `module.` of DataParallel, `model.` and `clip.` of training frameworks are taken off the front,
    `_orig_mod.` of torch.compile and the wrappers of sharded training anywhere.

    Raises:
      UserError: two weights would get the same name.
    """
    found, was = {}, {}
    for name, array in state.items():
        short = ".".join(part for part in str(name).split(".") if part not in AMID)
        while "." in short and short.split(".")[0] in WRAPPERS:
            short = short.partition(".")[2]
        if short in found:
            raise UserError(
                f"{where}: weights {was[short]!r} and {str(name)!r} are both {short!r}; keep one of them"
            )
        found[short], was[short] = array, str(name)
    return found


def scalar(state: Mapping[str, np.ndarray], name: str, default: float, where: str = "weights") -> float:
    """Returns the one number that `state` holds under `name`, of shape [] or [1], or else the default.

    Raises:
      UserError: there are several numbers, or it is not finite.
    """
    value = np.asarray(state.get(name, default))
    if value.size != 1:
        raise UserError(f"{where}: weight {name!r} has shape {list(value.shape)}, expected one number")
    number = float(value.reshape(()))
    if not np.isfinite(number):
        raise UserError(f"{where}: weight {name!r} is {number}, expected a finite number")
    return number
