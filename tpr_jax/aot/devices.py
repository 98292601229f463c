"""Finds the devices that a program is compiled for: local ones, or TPUs or GPUs described by their name."""

import importlib.util
import math
import os
import re
from collections.abc import Callable

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
    if gpu := gpus.parse(topology):
        return _gpus(topology, *gpu)
    if gpus.is_near(topology):
        raise UserError(
            f"--topology {topology} is unknown: GPUs are {', '.join(gpus.GPUS)}; several are written h100:8, "
            "and those of two machines h100:2x8"
        )
    if re.fullmatch(r"v\d\w*:\d+(x\d+)+", topology):
        return _tpus(topology)
    raise UserError(
        f"--topology {topology} is unknown: {nearest(topology, (*TOPOLOGIES, *gpus.GPUS, *HERE))}"
    )


def _gpus(topology: str, gpu: gpus.Gpu, shape: str) -> list:
    if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        raise UserError(
            f"--topology {topology}: the GPU's compiler is not installed: pip install 'jax[cuda12]', in a "
            "separate environment"
        )
    settings = {"topology_name": shape, "topology": shape, "target_config": gpus.description(gpu)}
    found = _described(
        lambda reason: (
            f"--topology {topology}: the GPU's compiler does not start ({reason}): pip install -U "
            "'jax[cuda12]', in a separate environment"
        ),
        platform="cuda",
        **settings,
    )
    assert len(found) == math.prod(map(int, shape.split("x")))
    return found


def _tpus(topology: str) -> list:
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--topology {topology}: the TPU's compiler, libtpu, is not installed: pip install -r "
            "requirements-aot.txt, in a separate environment"
        )
    # The compiler is part of the TPU driver, which would otherwise query the machine that it runs on.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
    return _described(
        lambda reason: (
            f"--topology {topology}: the TPU's compiler knows no such slice ({reason}): "
            f"{nearest(topology, TOPOLOGIES)}"
        ),
        platform="tpu",
        topology_name=topology,
    )


def _described(explain: Callable[[str], str], **settings: str) -> list:
    """Returns the devices of a topology that this machine does not have.

    Args:
      explain: returns the message of an error from its reason.
      **settings: the arguments of JAX's `get_topology_desc`.
    """
    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")
    try:
        with suppress_stderr():  # it warns that this machine has no such device
            return list(topologies.get_topology_desc(**settings).devices)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(explain(reason)) from error


def _here(platform: str) -> list:
    import jax

    try:
        return jax.devices(None if platform == "here" else platform)
    except RuntimeError as error:
        raise UserError(
            f"--topology {platform}: there is no such device here: use --topology here"
        ) from error
