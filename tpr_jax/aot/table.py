"""Tables of the memory and speed of the three methods on TPU slices, according to the compiler.

    python -m tpr_jax.aot.table [--workdir runs/aot_table] [--write] [--tables_only]

Compiles the programs that DIR lacks, each in a process of its own (hours on two cores), and prints three
tables: the methods on four slices, bytes per chip by method, batch size and remat, and one method on several
backbones. With --write they replace the text between the markers in launch/README.md and docs/. With
--tables_only nothing is compiled.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

from tpr_jax.aot.backbones import NAMES
from tpr_jax.aot.devices import TOPOLOGIES
from tpr_jax.aot.report import size
from tpr_jax.cli import parser as arguments
from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.errors import UserError
from tpr_jax.utils import markdown
from tpr_jax.utils.files import write_text

METHODS = ("dm_adapter", "up_person", "cskt")
CHIPS = {"v5e:4x4": 16, "v5e:16x16": 256, "v5p:4x4x4": 64, "v6e:8x8": 64}
CHIP_ROWS = 64  # in the table of slices
LARGE_BATCH, MICROBATCHES = 32_768, 16  # an additional row, on the first slice
BATCHES, REMAT = (1024, 128), ("none", "dots", "block")  # in the table of memory, on the first slice
BACKBONE_BATCH = 256  # in the table of backbones, on the first slice
PAGES = {
    "slices": (Path("launch/README.md"), "aot table"),
    "memory": (Path("docs/several_devices.md"), "aot memory"),
    "backbones": (Path("docs/backbones.md"), "aot backbones"),
}


def slices() -> list[dict]:
    """Returns the settings of the train steps in the table of slices."""
    return [
        {"method": method, "topology": topology, "batch_size": CHIP_ROWS * CHIPS[topology], "remat": "none"}
        for topology in TOPOLOGIES
        for method in METHODS
    ]


def large() -> list[dict]:
    """Returns the settings of a further row of that table: a large batch in microbatches."""
    rest = {
        "topology": TOPOLOGIES[0],
        "batch_size": LARGE_BATCH,
        "remat": "block",
        "accumulate": MICROBATCHES,
    }
    return [{"method": METHODS[0], **rest}]


def memory() -> list[dict]:
    """Returns the settings of the train steps in the table of memory."""
    return [
        {"method": method, "topology": TOPOLOGIES[0], "batch_size": batch, "remat": remat}
        for batch in BATCHES
        for method in METHODS
        for remat in REMAT
    ]


def backbones() -> list[dict]:
    """Returns the settings of the train steps in the table of backbones."""
    settings = {"topology": TOPOLOGIES[0], "batch_size": BACKBONE_BATCH, "remat": "block"}
    return [{"method": METHODS[0], **settings, "backbone": name} for name in NAMES.values()]


def compiled(row: dict, folder: Path, tables_only: bool) -> dict | None:
    """Returns a row's report: read if it exists, else from `tpr_jax.aot`, or None with `tables_only`."""
    name = "_".join(re.sub("[:/]", "_", str(value)) for value in row.values())
    path = folder / name / "aot.json"
    if not path.is_file():
        if tables_only:
            return None
        settings = {key: value for key, value in row.items() if key not in ("method", "topology")}
        command = [sys.executable, "-m", "tpr_jax.aot", "--topology", row["topology"], "--only", "train_step"]
        command += ["--config", f"configs/{row['method']}.py:cuhk_pedes", "--try_settings=False"]
        command += [f"--config.{key}={value}" for key, value in settings.items()]
        command += ["--config.scan_layers=True", f"--config.eval_batch_size={row['batch_size']}"]
        command += ["--workdir", str(path.parent)]
        # A session of its own: Ctrl-C reaches only this process, which then ends the other.
        if subprocess.run(command, start_new_session=True).returncode:
            raise UserError(f"{' '.join(command)} failed: see above")
    return json.loads(path.read_text())


def table_of_slices(reports: list[dict]) -> str:
    """Returns a Markdown table with one row for each slice and method."""
    header = ["slice", "method", "batch", "memory per chip", "of which", "FLOPs / minimum"]
    header += ["sent per chip and step", "bound by", "ms per step", "examples/s"]
    rows = []
    for report in reports:
        step = report["programs"]["train_step"]
        count = report.get("accumulate", 1)
        how = f" in {count} microbatches, remat={report['remat']}" if count > 1 else ""
        cells = [report["topology"], f"`{report['method']}`", f"{report['batch_size']:,}{how}"]
        if "shortage" in step:
            rows.append([*cells, f"{size(step['shortage']['missing'])} missing", *[""] * 6])
            continue
        memory, flops, roof = step["memory"], step["flops"], step["roofline"]
        largest = sorted((key for key in memory if key != "total"), key=lambda key: -memory[key])[:3]
        sent = sum(c["bytes"] for c in step["collectives"].values())
        cells += [size(memory["total"]), ", ".join(f"{key} {size(memory[key])}" for key in largest)]
        cells += [f"{flops['ratio']:.2f}", size(sent), roof["bound"], f"{1e3 * roof['step']:.1f}"]
        rows.append([*cells, f"{report['batch_size'] / roof['step']:,.0f}"])
    return markdown.table(header, rows, align="l" * len(header))


def table_of_memory(reports: list[dict]) -> str:
    """Returns a Markdown table with one row for each method and batch size, one column for each remat."""
    cells_by_row = {}
    for report in reports:
        step = report["programs"]["train_step"]
        total = step["shortage"]["needed"] if "shortage" in step else step["memory"]["total"]
        text = size(total) + (" (too much)" if "shortage" in step else "")
        cells_by_row.setdefault((report["method"], report["batch_size"], report["devices"]), {})[
            report["remat"]
        ] = text
    header = ["method", "batch", "per chip", *(f"remat={kind}" for kind in REMAT)]
    rows = [
        [f"`{method}`", f"{batch:,}", str(batch // devices), *(by_remat.get(kind, "") for kind in REMAT)]
        for (method, batch, devices), by_remat in cells_by_row.items()
    ]
    return markdown.table(header, rows, align="l" * len(header))


def table_of_backbones(reports: list[dict]) -> str:
    """Returns a Markdown table with one row for each backbone."""
    header = ["backbone", "memory per chip", "of which frozen", "bound by", "ms per step", "examples/s"]
    columns = {name: column for column, name in NAMES.items()}
    rows = []
    for report in reports:
        step, name = report["programs"]["train_step"], columns[report["backbone"]]
        if "shortage" in step:
            rows.append([name, f"{size(step['shortage']['missing'])} missing", *[""] * 4])
            continue
        memory, roof = step["memory"], step["roofline"]
        cells = [name, size(memory["total"]), size(memory["frozen"]), roof["bound"]]
        rows.append([*cells, f"{1e3 * roof['step']:.1f}", f"{report['batch_size'] / roof['step']:,.0f}"])
    return markdown.table(header, rows, align="l" * len(header))


def run(argv: list[str]) -> None:
    """Runs the command."""
    parser = arguments.Parser(
        prog="python -m tpr_jax.aot.table",
        description="Prints tables of the memory and speed of three methods on TPU slices.",
        examples=(
            "python -m tpr_jax.aot.table --tables_only",
            "python -m tpr_jax.aot.table --write",
        ),
    )
    parser.add_argument(
        "--workdir", type=arguments.folder, default=Path("runs/aot_table"), help="keeps what was compiled"
    )
    parser.add_argument("--write", action="store_true", help="update launch/README.md and docs/")
    parser.add_argument("--tables_only", action="store_true", help="use only what has been compiled so far")
    args = parser.parse_args(argv[1:])
    reports = {
        name: [compiled(row, args.workdir, args.tables_only) for row in rows]
        for name, rows in (
            ("slices", slices()),
            ("large", large()),
            ("memory", memory()),
            ("backbones", backbones()),
        )
    }
    reports = {name: [report for report in rows if report] for name, rows in reports.items()}
    tables = {
        "slices": table_of_slices(reports["slices"] + reports["large"]),
        "memory": table_of_memory(reports["memory"]),
        "backbones": table_of_backbones(reports["backbones"]),
    }
    for name, text in tables.items():
        print(f"{text}\n")
        path, marker = PAGES[name]
        if args.write:
            write_text(path, markdown.replace_section(path.read_text(), marker, text))


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
