"""Analyzes a compiled program's memory, operations and traffic, and formats the result as text."""

import re
from collections import defaultdict

from tpr_jax.aot import hlo, kernels
from tpr_jax.aot.products import products as list_products
from tpr_jax.aot.traffic import traffic
from tpr_jax.perf import chips

UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


def analyze(
    compiled, argument_bytes: dict[str, int], *, minimum: dict, all_experts: dict, devices: list, dtype: str
) -> dict:
    """Analyzes a compiled program.

    Args:
      compiled: the result of `jax.stages.Lowered.compile`.
      argument_bytes: the bytes of each kind of argument on one device.
      minimum: the operations of the analytic minimum, of all devices.
      all_experts: the same if mixtures compute all experts.
      devices: the devices that the program is compiled for.
      dtype: the dtype of the computation.

    Returns:
      Bytes, operations and seconds for one device:

      `memory`: The arguments by kind, the `padding` of their layouts, `outputs` that reuse no argument's
      buffer, `temporaries` (activations, gradients, workspace), `code`, and the `total`.

      `flops`: The operations of the products, the same with their last axes padded to 128 (`padded`), and
      their ratios to the analytic minimum.

      `traffic` and `collectives`: The bytes moved to and from main memory, and sent to other devices.

      `kernels`, only on GPUs: The number that one run starts.

      `roofline`: The seconds of products, main memory and interconnect at the chip's peak rates. As they
      overlap, a step takes at least the longest of them.
    """
    text, kind = compiled.as_text(), devices[0].device_kind
    products = list_products(text)
    compiled_flops = sum(p.flops * p.times for p in products)
    flops = {
        "products": compiled_flops,
        "padded": sum(p.padded * p.times for p in products),
        "compiler": float((compiled.cost_analysis() or {}).get("flops", 0.0)),
        "least": minimum["total"] / len(devices),
        "ratio": compiled_flops * len(devices) / minimum["total"],
        "ratio_all_experts": compiled_flops * len(devices) / all_experts["total"],
    }
    moved, sent = traffic(text), _by_kind(hlo.collectives(text, len(devices)))
    return {
        "memory": _memory(compiled.memory_analysis(), argument_bytes),
        "flops": flops,
        "traffic": moved,
        "collectives": sent,
        **({"kernels": kernels.count(text)} if devices[0].platform == "gpu" else {}),
        "roofline": roofline(kind, compiled_flops, moved, sum(c["bytes"] for c in sent.values()), dtype),
    }


def roofline(kind: str, flops: float, moved: float, sent: float, dtype: str) -> dict | None:
    """Returns the seconds at the chip's peak rates and the one that bounds the step, or None if unknown."""
    chip, peak = chips.find(kind), chips.peak(kind, dtype)
    if chip is None or peak is None:
        return None
    seconds = {
        "products": flops / peak,
        "memory": moved / chip.bandwidth,
        "interconnect": sent / chip.interconnect,
    }
    bound = max(seconds, key=seconds.__getitem__)
    return {**seconds, "bound": bound, "step": seconds[bound]}


def _memory(stats, argument_bytes: dict[str, int]) -> dict[str, int]:
    rest = {
        # A program is not passed the weights that it does not use, which take memory all the same.
        "padding": max(0, stats.argument_size_in_bytes - sum(argument_bytes.values())),
        "outputs": stats.output_size_in_bytes - stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    return {**argument_bytes, **rest, "total": sum(argument_bytes.values()) + sum(rest.values())}


def _by_kind(listed: list[hlo.Collective]) -> dict[str, dict]:
    totals: dict[str, dict] = defaultdict(lambda: {"count": 0, "bytes": 0.0})
    for collective in listed:
        totals[collective.kind]["count"] += collective.times
        totals[collective.kind]["bytes"] += collective.times * collective.sent
    return dict(totals)


def shortage(message: str) -> dict[str, float] | None:
    """Parses a TPU compiler's error: bytes `needed`, `available` and `missing`, or None for other errors."""
    if "RESOURCE_EXHAUSTED" not in message and "Ran out of memory" not in message:
        return None
    match = re.search(r"Used ([\d.]+)([KMG]) of ([\d.]+)([KMG])", message)
    # The second form comes early in compiling and counts only the arrays between operations.
    match = match or re.search(r"\(([\d.]+)([KMG])\) exceeds available HBM \(([\d.]+)([KMG])\)", message)
    if not match:
        return None
    needed, available = (float(match[i]) * UNITS[match[i + 1]] for i in (1, 3))
    return {"needed": needed, "available": available, "missing": needed - available}


def size(count: float) -> str:
    """Formats bytes in GiB or MiB."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def lines(name: str, result: dict, batch_size: int) -> list[str]:
    """Formats the result of `analyze`, or the shortage of a program that does not fit, as lines of text."""
    if "shortage" in result:
        short = result["shortage"]
        return [
            f"{name}: does not fit: needs {size(short['needed'])} per chip, {size(short['available'])} are "
            f"available, {size(short['missing'])} are missing"
        ]
    memory, flops, roof = result["memory"], result["flops"], result["roofline"]
    kinds = ", ".join(f"{key} {size(n)}" for key, n in memory.items() if key != "total" and n > 0)
    on_gpu = "kernels" in result
    lanes = "" if on_gpu else f"; {flops['products'] / flops['padded']:.0%} of the lanes filled"
    formatted = [
        name,
        f"  memory per chip    {size(memory['total'])}: {kinds}",
        f"  products per chip  {flops['products'] / 1e12:.3f} TFLOP, {_ratios(flops)}{lanes}",
        f"  main memory        {size(result['traffic'])} moved",
        *([f"  kernels            {result['kernels']:,}"] if on_gpu else []),
        "  interconnect       "
        + (
            ", ".join(
                f"{kind} {size(c['bytes'])} in {c['count']}" for kind, c in result["collectives"].items()
            )
            or "nothing"
        ),
    ]
    if roof:
        times = ", ".join(f"{key} {1e3 * roof[key]:.2f} ms" for key in ("products", "memory", "interconnect"))
        rate = f"{batch_size / roof['step']:,.0f} examples per second"
        formatted.append(f"  at peak rates      {times}: bound by {roof['bound']}, {rate}")
    return formatted


def _ratios(flops: dict) -> str:
    text = f"{flops['ratio']:.3f} x the analytic minimum"
    if flops["ratio"] == flops["ratio_all_experts"]:
        return text
    return f"{text} ({flops['ratio_all_experts']:.3f} x with all experts)"
