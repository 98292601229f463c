"""Compiles a config's train step and encoders for devices that need not be here, and says what they take.

    python -m tpr_jax.aot --config configs/NAME.py[:DATASET] --topology v5e:4x4
                          [--batch_size N] [--config.KEY=VALUE ...] [--workdir DIR] [--identities N]
                          [--only train_step,encode_image,encode_text] [--try_settings=False] [--hlo DIR]

Topologies: v5e:4x4, v5e:16x16, v5p:4x4x4, v6e:8x8 and other slices of these chips (with what
requirements-aot.txt installs); here, gpu, cpu, cpu:N. Nothing is read but the config: no weights, no data.
Writes DIR/aot.json and DIR/aot.txt, by default below runs/aot/. Where the train step does not fit it looks
for settings with which it does. `python -m tpr_jax.aot.table` makes the tables of launch/README.md.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

# XLA's notices; errors still come through.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags
from ml_collections import ConfigDict

from tpr_jax.aot.devices import devices as find_devices
from tpr_jax.cli import parser
from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.config.flags import parse_flags
from tpr_jax.errors import UserError
from tpr_jax.utils.files import write_json, write_text

PROGRAMS = ("train_step", "encode_image", "encode_text")


def run(argv: list[str]) -> None:
    """The command."""
    ours, theirs = _split(argv)
    values = flags.FlagValues()
    flags.DEFINE_string("topology", None, "which devices", flag_values=values)
    flags.DEFINE_integer("batch_size", None, "short for --config.batch_size", flag_values=values)
    flags.DEFINE_integer("identities", None, "to train on, for the loss 'id'", flag_values=values)
    flags.DEFINE_string("workdir", None, "where the report goes", flag_values=values)
    flags.DEFINE_list("only", list(PROGRAMS), "which of the programs", flag_values=values)
    flags.DEFINE_string("hlo", None, "a folder for the compiled programs' text", flag_values=values)
    flags.DEFINE_bool("try_settings", True, "look for settings with which it fits", flag_values=values)
    if len(argv) == 1 or {"-h", "--help"} & set(argv):
        print(__doc__.strip())
        raise SystemExit(0 if len(argv) > 1 else 2)
    try:
        values([argv[0], *ours])
    except flags.Error as error:
        raise UserError(" ".join(str(error).split())) from error
    if not values.topology:
        raise UserError("--topology is missing: name the devices, such as --topology v5e:4x4 or here")
    for name in values.only:
        if name not in PROGRAMS:
            raise UserError(f"--only {name} is unknown: known are {', '.join(PROGRAMS)}")
    if values.batch_size is not None:
        theirs.append(f"--config.batch_size={values.batch_size}")
    config = parse_flags([argv[0], *theirs, "--workdir", "unused"])[0]
    report = compile_all(
        config,
        values.topology,
        only=values.only,
        identities=values.identities,
        try_settings=values.try_settings,
        hlo=values.hlo and parser.path(values.hlo),
        say=print,
    )
    name = f"{config.method.name}_{values.topology.replace(':', '_')}_{config.batch_size}"
    folder = parser.folder(values.workdir or f"runs/aot/{name}")
    write_json(folder / "aot.json", report)
    write_text(folder / "aot.txt", "\n".join(report["lines"]) + "\n")
    print(f"written to {folder}: aot.json, aot.txt")


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """(our own arguments, those of the config)."""
    ours, theirs, into = [], [], None
    for argument in argv[1:]:
        if argument.startswith("-"):
            into = theirs if argument.lstrip("-").startswith(("config", "noconfig")) else ours
        (ours if into is None else into).append(argument)
    return ours, theirs


def compile_all(
    config: ConfigDict,
    topology: str,
    *,
    only=PROGRAMS,
    identities: int | None = None,
    try_settings: bool = True,
    hlo: str | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> dict:
    """Compiles what `only` names for a topology: a report for JSON, of which each line is said as it comes.

    Raises:
      UserError: the topology is unknown, its compiler missing, or the config does not fit it.
    """
    devices = find_devices(topology)
    from tpr_jax.aot.programs import sizes_of
    from tpr_jax.distributed.sharding import make_mesh

    mesh = make_mesh(**config.mesh, devices=devices)
    sizes, each = sizes_of(config), config.batch_size // len(devices)
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        say(line)

    tell(
        f"{config.method.name} on {config.backbone} at {sizes.image_size[0]} x {sizes.image_size[1]}, batch "
        f"{config.batch_size} ({each} a chip), {config.dtype}, remat {config.remat}, accumulate "
        f"{config.accumulate}, for {len(devices)} x {devices[0].device_kind} as "
        f"{mesh.shape['data']} x {mesh.shape['model']}"
    )
    found = _compile(config, mesh, only, identities, tell, hlo)
    if try_settings and "shortage" in found.get("train_step", {}):
        found["helps"] = _what_helps(config, mesh, found["train_step"], identities, tell)
    kept = {
        key: getattr(config, key) for key in ("batch_size", "dtype", "remat", "accumulate", "scan_layers")
    }
    return {
        "method": config.method.name,
        "topology": topology,
        "device_kind": devices[0].device_kind,
        "devices": len(devices),
        "mesh": dict(mesh.shape),
        **kept,
        "programs": {name: found[name] for name in only if name in found},
        **{key: found[key] for key in ("helps",) if key in found},
        "lines": lines,
    }


def _compile(config: ConfigDict, mesh, only, identities, tell: Callable, hlo=None) -> dict[str, dict]:
    """program -> its numbers, or the `shortage` of one that does not fit."""
    from tpr_jax.aot import report as aot_report
    from tpr_jax.aot.programs import programs

    found = {}
    for name, program in programs(config, mesh, identities).items():
        if name not in only:
            continue
        began = time.perf_counter()
        try:
            compiled = program.lower().compile()
        except Exception as error:  # of which kind depends on the compiler
            if (short := aot_report.shortage(str(error))) is None:
                raise
            found[name] = {"shortage": short, "held": program.held}
        else:
            if hlo:
                write_text(Path(hlo) / f"{name}.txt", compiled.as_text())
            counts = (program.held, program.least, program.all_experts)
            found[name] = aot_report.analyze(compiled, *counts, list(mesh.devices.flat), config.dtype)
        found[name]["compile_seconds"] = time.perf_counter() - began
        rows = config.batch_size if name == "train_step" else config.eval_batch_size
        for line in aot_report.lines(name, found[name], rows):
            tell(line)
    return found


def settings_to_try(config: ConfigDict, shortage: dict, held: int, data: int) -> list[dict]:
    """Settings that need less memory than the config's, the cheapest first.

    Parts of a batch: as many as bring what is beyond the arguments, `held` bytes, into the room there is.
    """
    tries = [{"remat": kind} for kind in ("dots", "block") if kind != config.remat and config.remat == "none"]
    room, rest = shortage["available"] - held, shortage["needed"] - held
    rows = config.batch_size // data
    divisors = [n for n in range(2, rows + 1) if rows % n == 0 and n > config.accumulate]
    enough = [n for n in divisors if room > 0 and rest * config.accumulate / n < 0.9 * room]
    parts = [{"accumulate": n} for n in (enough[:2] or divisors[-1:])]
    return [*tries, *parts, *({"remat": "block", **part} for part in parts[:1])]


def _what_helps(config: ConfigDict, mesh, short: dict, identities, tell: Callable) -> dict | None:
    """The first of the settings with which the train step fits, of which `short` is said, tried by
    compiling."""
    held = sum(short["held"].values())
    for change in settings_to_try(config, short["shortage"], held, mesh.shape["data"]):
        changed = ConfigDict(config.to_dict())
        changed.update(change)
        words = " ".join(f"--config.{key}={value}" for key, value in change.items())
        tell(f"with {words}:")
        found = _compile(changed, mesh, ("train_step",), identities, tell)["train_step"]
        if "shortage" not in found:
            tell(f"it fits with {words}")
            return {**change, **found}
    tell("nothing tried makes it fit: a smaller --batch_size, more chips, or --config.mesh.model above 1")
    return None


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
