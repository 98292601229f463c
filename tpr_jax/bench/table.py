"""Renders the report of `bench` as Markdown tables."""

import statistics

from tpr_jax.bench.worker import median_seconds
from tpr_jax.utils import markdown

TITLES = {
    "encode": "Encoding, ViT-B/16, 384 x 128 images, texts of 77 tokens",
    "train": "Train step, ViT-B/16, 384 x 128 images",
    "mini": "clip-mini, 192 x 64 images, batch 64",
    "backbones": "Backbones: DM-Adapter's train step with 8 pairs, encoders with 16, 384 x 128 images",
    "input": "Input pipeline",
    "ranking": "Ranking, both directions",
    "checkpoint": "Checkpoint of DM-Adapter, ViT-B/16",
    "commands": "Command startup, until the help is printed",
    "search": "Search",
}
MODEL_HEADER = ["", "dtype", "batch", "seconds", "min to max", "GFLOP/s", "fraction of peak matmul"]
MODEL_HEADER += ["fastest matmul", "ours / PyTorch", "CPU time, ours / PyTorch", "memory, GB", "compile, s"]
TORCH_KINDS = ("torch_encoder", "torch_train_step")
# The values of `by` in bench.json.
MATMUL_NAMES = {"xla": "XLA", "options": "XLA, our options", "numpy": "NumPy, float32", "torch": "PyTorch"}


def render_tables(report: dict) -> str:
    """Renders one table for each section that was measured, under a line that names the machine."""
    lines = [f"Measured on: {describe_machine(report['machine'])}."]
    for section, title in TITLES.items():
        groups = report["parts"].get(section)
        if groups:
            lines += ["", f"**{title}**", "", RENDERERS.get(section, timing_table)(groups)]
    return "\n".join(lines)


def describe_machine(machine: dict) -> str:
    """Describes a machine in a few words."""
    versions = f"Python {machine['python']}, jax {machine['jax']}"
    return f"{machine['device']}, {machine['cores']} cores, {versions}"


def model_table(groups: dict[str, list[dict]]) -> str:
    """Renders encoders and train steps: seconds, rate, and fraction of the peak matmul rate.

    The fastest matmul of each group is its peak rate; the table names what computed it. The ratios to PyTorch
    are those of the minimum time over the turns, and of the minimum CPU time.
    """
    lines = []
    for subjects in groups.values():
        matmul = _fastest([row for row in subjects if row["kind"] == "product"])
        rows = [row for row in subjects if row["kind"] != "product"]
        torch_rows = {_model_key(row): row for row in rows if row["kind"] in TORCH_KINDS}
        lines += [
            _model_cells(row, matmul, torch_rows.get(_model_key(row)))
            for row in rows
            if row["kind"] not in TORCH_KINDS
        ]
    return markdown.table(MODEL_HEADER, lines)


def _fastest(matmuls: list[dict]) -> dict | None:
    measured = [row for row in matmuls if "error" not in row]
    return min(measured, key=median_seconds, default=None)


def _model_cells(row: dict, matmul: dict | None, torch_row: dict | None) -> list[str]:
    name = row.get("config") or {"vision": "images", "text": "texts"}[row["tower"]]
    cells = [name, row["dtype"], str(row["batch"])]
    if "error" in row:
        return [*cells, row["error"], *[""] * (len(MODEL_HEADER) - 4)]
    seconds = median_seconds(row)
    rate = row["flops"] / seconds
    fraction = fastest = ""
    if matmul:
        fraction = f"{rate * median_seconds(matmul) / matmul['flops']:.2f}"
        fastest = MATMUL_NAMES[matmul.get("by", "options")]  # the only kind in reports of earlier versions
    cells += [f"{seconds:.4g}", relative_range(row), f"{rate / 1e9:,.0f}", fraction, fastest]
    cells += [_ratio(row, torch_row or {}, of) for of in ("seconds", "cpu_seconds")]
    return [*cells, f"{peak_memory_gb(row):.2f}", f"{row['compile_seconds']:.0f}"]


def _ratio(row: dict, torch_row: dict, of: str) -> str:
    """Returns our minimum over PyTorch's minimum; "" if one of them was not measured."""
    if of not in row or of not in torch_row:  # reports of earlier versions lack `cpu_seconds`
        return ""
    return f"{min(row[of]) / min(torch_row[of]):.2f}"


def backbone_table(groups: dict[str, list[dict]]) -> str:
    """Renders one row for each backbone: its train step, and images and texts encoded per second."""
    header = ["backbone", "dtype", "seconds per step", "memory, GB", "images/s", "texts/s"]
    lines = []
    for name, (images, texts, step) in groups.items():
        cells = [f"`{name}`", step["dtype"]]
        if "error" in step:
            cells += [step["error"], ""]
        else:
            cells += [f"{median_seconds(step):.3g}", f"{peak_memory_gb(step):.2f}"]
        for row in (images, texts):
            cells.append(row.get("error") or f"{row['batch'] / median_seconds(row):.3g}")
        lines.append(cells)
    return markdown.table(header, lines)


def input_table(groups: dict[str, list[dict]]) -> str:
    """Renders the images per second of the input pipeline and of the loader it is compared with."""
    lines = []
    for rows in groups.values():
        for row in rows:
            (_, ours), (baseline, theirs) = row["rates"].items()
            medians = [statistics.median(rate for rate, _ in epochs) for epochs in (ours, theirs)]
            lines.append([str(row["workers"]), *(f"{rate:.0f}" for rate in medians), baseline])
    return markdown.table(["workers", "images/s", "baseline, images/s", "baseline"], lines)


def timing_table(groups: dict[str, list[dict]]) -> str:
    """Renders seconds and memory of everything else."""
    lines = []
    for rows in groups.values():
        for row in rows:
            if "error" in row:
                lines.append([row_name(row), row["error"], "", ""])
            else:
                memory = f"{row['peak_memory_bytes'] / 1e9:.2f}"
                lines.append([row_name(row), f"{median_seconds(row):.3g}", relative_range(row), memory])
    return markdown.table(["", "seconds", "min to max", "memory, GB"], lines)


RENDERERS = {
    **dict.fromkeys(("encode", "train", "mini"), model_table),
    "backbones": backbone_table,
    "input": input_table,
}


def row_name(row: dict) -> str:
    """Names a row of `timing_table`."""
    match row["kind"]:
        case "ranking":
            return f"{row['of']}: {row['queries']:,} texts, {row['gallery']:,} images"
        case "checkpoint":
            return row["does"]
        case "command":
            return f"`python -m {row['module']} --help`"
        case "search":
            return f"top 10 of {row['vectors']:,} vectors"
        case "query":
            return f"text query, {row['dtype']}, top 10 of {row['vectors']:,} vectors"
        case "index":
            return f"{row['photos']} JPEGs to vectors, {row['dtype']}, as `search index`"
        case "torch_index":
            return f"{row['photos']} JPEGs to vectors, {row['dtype']}, a loop in PyTorch"
    raise ValueError(f"no row name for the kind {row['kind']!r}")


def peak_memory_gb(row: dict) -> float:
    """Returns the peak memory of the device if it reports that, else of the process, in GB."""
    return (row["peak_device_memory_bytes"] or row["peak_memory_bytes"]) / 1e9


def relative_range(row: dict) -> str:
    """Returns the minimum and maximum over the turns, relative to the median."""
    seconds, median = row["seconds"], median_seconds(row)
    return f"{min(seconds) / median:.2f} to {max(seconds) / median:.2f}"


def _model_key(row: dict) -> tuple:
    return row.get("config"), row.get("tower"), row["backbone"], row["dtype"], row["batch"]
