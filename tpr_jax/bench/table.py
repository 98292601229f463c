"""What `bench` measured, as Markdown."""

import statistics
from collections.abc import Collection, Iterable

from tpr_jax.bench.worker import median_seconds

TITLES = {
    "encode": "Encoding, ViT-B/16, images of 384 x 128, texts of 77 ids",
    "train": "A training step, ViT-B/16, 384 x 128",
    "mini": "clip-mini, 192 x 64, batch 64",
    "input": "The input pipeline",
    "ranking": "Ranking both directions",
    "checkpoint": "A checkpoint of DM-Adapter at ViT-B/16",
    "commands": "A command's start, up to its help",
    "search": "Search",
}


def tables(report: dict, wanted: Collection[str] = tuple(TITLES)) -> str:
    """One table a part that is wanted, under a line that names the machine."""
    found = [f"Measured on: {named(report['machine'])}."]
    for part, title in TITLES.items():
        groups = report["parts"].get(part)
        if groups and part in wanted:
            found += ["", f"**{title}**", "", TABLES.get(part, plain)(groups)]
    return "\n".join(found)


def named(machine: dict) -> str:
    """A machine in a few words."""
    versions = f"Python {machine['python']}, jax {machine['jax']}"
    return f"{machine['device']}, {machine['cores']} cores, {versions}"


def models(groups: dict[str, list[dict]]) -> str:
    """Lines of encoders and train steps: seconds, rate, and the share of the product beside them."""
    heads = ["", "type", "batch", "seconds", "spread", "GFLOP/s", "of the product"]
    heads += ["PyTorch / this", "memory, GB", "compiling, s"]
    lines = []
    for rows in groups.values():
        (best, *rows) = rows
        torch = {_of(row): row for row in rows if row["kind"] == "torch_encoder"}
        for row in rows:
            if row["kind"] == "torch_encoder":
                continue
            name = row.get("config") or {"vision": "images", "text": "texts"}[row["tower"]]
            begin = [name, row["dtype"], str(row["batch"])]
            if "error" in row:
                lines.append([*begin, row["error"], *[""] * 6])
                continue
            rate = row["flops"] / median_seconds(row)
            share = "" if "error" in best else f"{rate * median_seconds(best) / best['flops']:.2f}"
            other = torch.get(_of(row))
            ratio = (
                f"{median_seconds(other) / median_seconds(row):.2f}" if other and "error" not in other else ""
            )
            lines.append(
                [*begin, f"{median_seconds(row):.4g}", spread(row), f"{rate / 1e9:,.0f}", share, ratio]
                + [f"{memory(row):.2f}", f"{row['compile_seconds']:.0f}"]
            )
    return markdown(heads, lines)


def pictures(groups: dict[str, list[dict]]) -> str:
    """Of the input pipeline: pictures a second beside another loader."""
    lines = []
    for rows in groups.values():
        for row in rows:
            (_, ours), (other, theirs) = row["rates"].items()
            middles = [statistics.median(rate for rate, _ in epochs) for epochs in (ours, theirs)]
            lines.append([str(row["workers"]), *(f"{rate:.0f}" for rate in middles), other])
    return markdown(["workers", "images/s", "the other's", "which is"], lines)


def plain(groups: dict[str, list[dict]]) -> str:
    """Seconds and memory of anything else."""
    lines = []
    for rows in groups.values():
        for row in rows:
            if "error" in row:
                lines.append([name_of(row), row["error"], "", ""])
            else:
                taken = f"{row['peak_memory_bytes'] / 1e9:.2f}"
                lines.append([name_of(row), f"{median_seconds(row):.3g}", spread(row), taken])
    return markdown(["", "seconds", "spread", "memory, GB"], lines)


TABLES = {"encode": models, "train": models, "mini": models, "input": pictures}


def name_of(row: dict) -> str:
    """What a line is of."""
    count = f"{row['vectors']:,} vectors" if "vectors" in row else ""
    by_kind = {
        "ranking": lambda: f"{row['of']}: {row['queries']:,} texts, {row['gallery']:,} images",
        "checkpoint": lambda: row["does"],
        "command": lambda: f"`python -m {row['module']} --help`",
        "search": lambda: f"the ten best of {count}",
        "query": lambda: f"a sentence, {row['dtype']}, the ten best of {count}",
    }
    return by_kind[row["kind"]]()


def memory(row: dict) -> float:
    """The most that a model took, of its device where that keeps an account, GB."""
    return (row["peak_device_memory_bytes"] or row["peak_memory_bytes"]) / 1e9


def spread(row: dict) -> str:
    """The least and the most, by the median."""
    return (
        f"{min(row['seconds']) / median_seconds(row):.2f} to {max(row['seconds']) / median_seconds(row):.2f}"
    )


def markdown(heads: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A table."""
    heads = list(heads)
    rows = [heads, ["---", *["---:"] * (len(heads) - 1)], *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _of(row: dict) -> tuple:
    return row.get("tower"), row["backbone"], row["dtype"], row["batch"]
