"""The devices that a program is compiled for: those here, or a TPU slice that is not, by its name."""

import importlib.util
import os
import re

from tpr_jax.config.defaults import nearest
from tpr_jax.errors import UserError
from tpr_jax.utils.streams import suppress_stderr

# Seen to compile with requirements-aot.txt; other shapes of these chips do as well.
TOPOLOGIES = ("v5e:4x4", "v5e:16x16", "v5p:4x4x4", "v6e:8x8")
HERE = ("here", "cpu", "gpu")


def devices(topology: str) -> list:
    """The devices of a slice (`v5e:4x4`), or those here: `here`, `gpu`, `cpu`, or `cpu:N`, N made-up ones.

    Has to be called before JAX is used for anything else.

    Raises:
      UserError: there is no such topology, or libtpu, which compiles for it, is not installed.
    """
    if re.fullmatch(r"cpu:[1-9]\d*", topology):
        count = f"--xla_force_host_platform_device_count={topology.partition(':')[2]}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {count}".strip()
        topology = "cpu"
    if topology in HERE:
        return _here(topology)
    if not re.fullmatch(r"v\d\w*:\d+(x\d+)+", topology):
        raise UserError(f"--topology {topology} is unknown: {nearest(topology, (*TOPOLOGIES, *HERE))}")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--topology {topology}: the TPU's compiler, libtpu, is not installed: in an environment of its "
            "own, pip install -r requirements-aot.txt"
        )
    # The compiler is a part of the TPU's driver, which would look for the machine it is on.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")
    try:
        with suppress_stderr():  # it would say that this machine is no TPU's, which is known
            return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        near = nearest(topology, TOPOLOGIES)
        raise UserError(
            f"--topology {topology}: the TPU's compiler knows no such slice ({reason}): {near}"
        ) from (error)


def _here(platform: str) -> list:
    import jax

    try:
        return jax.devices(None if platform == "here" else platform)
    except RuntimeError as error:
        raise UserError(f"--topology {platform}: there is no such device here: take 'here'") from error
