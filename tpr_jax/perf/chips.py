"""Peak rates of accelerator chips, by the name that JAX gives them (`device.device_kind`)."""

from typing import NamedTuple


class Chip(NamedTuple):
    """The peak rates of one chip.

    Attributes:
      flops: dense operations per second with bfloat16 operands.
      bandwidth: bytes per second of main memory.
      interconnect: bytes per second sent to other chips over all links, one way.
    """

    flops: float
    bandwidth: float
    interconnect: float


# On a TPU a float32 product of precision HIGHEST takes six bfloat16 passes: each operand is split into three
# pieces, and the three smallest of the nine products are left out.
FLOAT32_PASSES = 6

# docs.cloud.google.com/tpu/docs/v4, v5e, v5p, v6e: peak compute, HBM bandwidth and half the bidirectional
# inter-chip bandwidth, each per chip. (v2 and v3 are left out: there a JAX device is half a chip.)
_V5E = Chip(197e12, 819e9, 200e9)
_V5P = Chip(459e12, 2765e9, 600e9)
_V6E = Chip(918e12, 1640e9, 400e9)
TPUS = {
    "TPU v4": Chip(275e12, 1228e9, 300e9),
    "TPU v5 lite": _V5E,
    "TPU v5e": _V5E,
    "TPU v5": _V5P,
    "TPU v5p": _V5P,
    "TPU v6 lite": _V6E,
    "TPU v6e": _V6E,
}

# NVIDIA's data sheets: "BFLOAT16 Tensor Core" without sparsity, "GPU memory bandwidth", and half of NVLink's
# or PCIe's bandwidth; for GeForce, the white papers of their architectures. (Older GPUs are left out: they
# have no fast units for bfloat16.)
GPUS = {
    "NVIDIA GeForce RTX 3090": Chip(71e12, 936e9, 32e9),
    "NVIDIA GeForce RTX 4090": Chip(165e12, 1008e9, 32e9),
    "NVIDIA A100-SXM4-40GB": Chip(312e12, 1555e9, 300e9),
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 2039e9, 300e9),
    "NVIDIA A100-PCIE-40GB": Chip(312e12, 1555e9, 32e9),
    "NVIDIA A100 80GB PCIe": Chip(312e12, 1935e9, 32e9),
    "NVIDIA L4": Chip(121e12, 300e9, 32e9),
    "NVIDIA L40S": Chip(362e12, 864e9, 32e9),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 3350e9, 450e9),
    "NVIDIA H100 PCIe": Chip(756e12, 2000e9, 64e9),
    "NVIDIA H200": Chip(989e12, 4800e9, 450e9),
    "NVIDIA B200": Chip(2250e12, 8000e9, 900e9),
}


def find(kind: str) -> Chip | None:
    """Returns the chip of that name, or None if it is not listed, such as a CPU."""
    return TPUS.get(kind) or GPUS.get(kind)


def peak(kind: str, dtype: str) -> float | None:
    """Returns the peak operations per second of products with operands of `dtype`, or None if unknown."""
    chip = find(kind)
    if chip is None or (dtype == "float32" and kind not in TPUS):  # on a GPU it depends on XLA's settings
        return None
    return chip.flops / (FLOAT32_PASSES if dtype == "float32" else 1)
