"""What a compiled program takes and does, as numbers, and these as a few lines of text."""

import re
from collections import defaultdict

from tpr_jax.aot import hlo
from tpr_jax.aot.traffic import traffic
from tpr_jax.perf import chips

UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


def analyze(
    compiled, held: dict[str, int], least: dict, all_experts: dict, devices: list, dtype: str
) -> dict:
    """Numbers of one device, of a program compiled for `devices`; bytes, operations and seconds.

    `memory`: what its arguments hold by kind, `padding` that their layout adds, `outputs` that take no
    argument's place, `temporaries` (activations, gradients, room to work), `code`, and the `total`. `flops`:
    those of the products, what they are with their last axes filled up to 128 (`padded`), and the ratios to
    the least.
    `roofline`: the seconds that products, main memory and the interconnect each take at the chip's best;
    they go on side by side, so a step takes the longest of these at least.
    """
    text, kind = compiled.as_text(), devices[0].device_kind
    products = hlo.products(text)
    done = sum(p.flops * p.times for p in products)
    flops = {
        "products": done,
        "padded": sum(p.padded * p.times for p in products),
        "compiler": float((compiled.cost_analysis() or {}).get("flops", 0.0)),
        "least": least["total"] / len(devices),
        "ratio": done * len(devices) / least["total"],
        "ratio_all_experts": done * len(devices) / all_experts["total"],
    }
    moved, sent = traffic(text), _by_kind(hlo.collectives(text, len(devices)))
    return {
        "memory": _memory(compiled.memory_analysis(), held),
        "flops": flops,
        "traffic": moved,
        "collectives": sent,
        "roofline": roofline(kind, done, moved, sum(c["bytes"] for c in sent.values()), dtype),
    }


def roofline(kind: str, flops: float, moved: float, sent: float, dtype: str) -> dict | None:
    """Seconds at the chip's best, and which of them `bound` the step; None for a chip that is not known."""
    chip, peak = chips.find(kind), chips.peak(kind, dtype)
    if peak is None:
        return None
    seconds = {
        "products": flops / peak,
        "memory": moved / chip.bandwidth,
        "interconnect": sent / chip.interconnect,
    }
    bound = max(seconds, key=seconds.get)
    return {**seconds, "bound": bound, "step": seconds[bound]}


def _memory(stats, held: dict[str, int]) -> dict[str, int]:
    own = stats.output_size_in_bytes - stats.alias_size_in_bytes
    rest = {
        "padding": stats.argument_size_in_bytes - sum(held.values()),
        "outputs": own,
        "temporaries": stats.temp_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    return {**held, **rest, "total": sum(held.values()) + sum(rest.values())}


def _by_kind(listed: list[hlo.Collective]) -> dict[str, dict]:
    found: dict[str, dict] = defaultdict(lambda: {"count": 0, "bytes": 0.0})
    for one in listed:
        found[one.kind]["count"] += one.times
        found[one.kind]["bytes"] += one.times * one.sent
    return dict(found)


def shortage(message: str) -> dict[str, float] | None:
    """`needed`, `available` and `missing` bytes where a TPU's compiler found no room; else None."""
    if "RESOURCE_EXHAUSTED" not in message and "Ran out of memory" not in message:
        return None
    match = re.search(r"Used ([\d.]+)([KMG]) of ([\d.]+)([KMG])", message)
    # The second form, before all else is counted, is of what lies between the operations alone.
    match = match or re.search(r"\(([\d.]+)([KMG])\) exceeds available HBM \(([\d.]+)([KMG])\)", message)
    if not match:
        return None
    needed, available = (float(match[i]) * UNITS[match[i + 1]] for i in (1, 3))
    return {"needed": needed, "available": available, "missing": needed - available}


def size(count: float) -> str:
    """Bytes for people: in GiB or MiB."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def lines(name: str, found: dict, batch_size: int) -> list[str]:
    """A program's numbers as text."""
    if "shortage" in found:
        short = found["shortage"]
        return [
            f"{name}: does not fit: {size(short['needed'])} a chip, of which there are "
            f"{size(short['available'])}: {size(short['missing'])} are missing"
        ]
    memory, flops, roof = found["memory"], found["flops"], found["roofline"]
    kinds = ", ".join(f"{key} {size(n)}" for key, n in memory.items() if key != "total" and n > 0)
    shown = [
        name,
        f"  memory a chip    {size(memory['total'])}: {kinds}",
        f"  products a chip  {flops['products'] / 1e12:.3f} TFLOP, {flops['ratio']:.3f} x the least"
        + (
            f" ({flops['ratio_all_experts']:.3f} x with all experts)"
            if flops["ratio"] != flops["ratio_all_experts"]
            else ""
        )
        + f"; {flops['products'] / flops['padded']:.0%} of the lanes filled",
        f"  main memory      {size(found['traffic'])} moved",
        "  interconnect     "
        + (
            ", ".join(
                f"{kind} {size(c['bytes'])} in {c['count']}" for kind, c in found["collectives"].items()
            )
            or "nothing"
        ),
    ]
    if roof:
        parts = ", ".join(f"{key} {1e3 * roof[key]:.2f} ms" for key in ("products", "memory", "interconnect"))
        rate = batch_size / roof["step"]
        shown.append(f"  at its best      {parts}: bound by {roof['bound']}, {rate:,.0f} examples a second")
    return shown
