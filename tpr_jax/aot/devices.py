"""Finds the devices that a program is compiled for: local ones, or TPUs or GPUs described by their name."""

import importlib.util
import os
import re

from tpr_jax.aot import gpus
from tpr_jax.errors import UserError
from tpr_jax.utils.streams import suppress_stderr
from tpr_jax.utils.suggest import nearest

# Tested with requirements-aot.txt; other shapes of these chips work too.
TOPOLOGIES = ("v5e:4x4", "v5e:16x16", "v5p:4x4x4", "v6e:8x8")
HERE = ("here", "cpu", "gpu")


def devices(topology: str) -> list:
    """Returns the devices of a topology; call it before JAX is used for anything else.

    Args:
      topology: a TPU slice such as `v5e:4x4`, GPUs such as `h100` or `h100:2x8` (`gpus.parse`), or local
        devices: `here`, `gpu`, `cpu`, or `cpu:N` for N virtual CPU devices.

    Raises:
      UserError: there is no such topology, or its compiler is not installed.
    """
    if re.fullmatch(r"cpu:[1-9]\d*", topology):
        count = f"--xla_force_host_platform_device_count={topology.partition(':')[2]}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {count}".strip()
        topology = "cpu"
    if topology in HERE:
        return _here(topology)
    if described := gpus.devices(topology):
        return described
    if gpus.is_near(topology):
        raise UserError(
            f"--topology {topology} is unknown: GPUs are {', '.join(gpus.GPUS)}; several are written h100:8, "
            "and those of two machines h100:2x8"
        )
    if not re.fullmatch(r"v\d\w*:\d+(x\d+)+", topology):
        raise UserError(
            f"--topology {topology} is unknown: {nearest(topology, (*TOPOLOGIES, *gpus.GPUS, *HERE))}"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--topology {topology}: the TPU's compiler, libtpu, is not installed: pip install -r "
            "requirements-aot.txt, in a separate environment"
        )
    # The compiler is part of the TPU driver, which would otherwise query the machine that it runs on.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")
    try:
        with suppress_stderr():  # it warns that this machine has no TPU
            return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        near = nearest(topology, TOPOLOGIES)
        raise UserError(
            f"--topology {topology}: the TPU's compiler knows no such slice ({reason}): {near}"
        ) from error


def _here(platform: str) -> list:
    import jax

    try:
        return jax.devices(None if platform == "here" else platform)
    except RuntimeError as error:
        raise UserError(
            f"--topology {platform}: there is no such device here: use --topology here"
        ) from error
