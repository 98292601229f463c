"""Compiles a config's train step and encoders for devices that need not be present, and reports their costs.

    python -m tpr_jax.aot --config configs/NAME.py[:DATASET] --topology v5e:4x4
                          [--batch_size N] [--config.KEY=VALUE ...] [--workdir DIR] [--identities N]
                          [--only train_step,encode_image,encode_text] [--try_settings=False] [--hlo DIR]

Topologies: v5e:4x4, v5e:16x16, v5p:4x4x4, v6e:8x8 and other slices of these chips (with
requirements-aot.txt installed); GPUs such as h100, h100:8, or h100:2x8 for two machines (with JAX's CUDA
plugin installed); here, gpu, cpu, cpu:N. Only the config is read: no weights, no data. Writes DIR/aot.json
and DIR/aot.txt, by default below runs/aot/. If the train step does not fit, tries settings that need less
memory. `python -m tpr_jax.aot.table` writes the tables of launch/README.md.
"""

import sys

from tpr_jax.cli.exit import explain_and_exit, silence_native_logs

if __name__ == "__main__":  # before the imports below load XLA
    silence_native_logs()

import time
from collections.abc import Callable
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from tpr_jax.aot import gpus
from tpr_jax.aot.devices import devices as find_devices
from tpr_jax.cli import parser
from tpr_jax.config.flags import parse_flags
from tpr_jax.errors import UserError
from tpr_jax.utils.files import write_json, write_text

PROGRAMS = ("train_step", "encode_image", "encode_text")


def run(argv: list[str]) -> None:
    """Runs the command."""
    own_args, config_args = _split(argv)
    values = _flags()
    if len(argv) == 1 or {"-h", "--help"} & set(argv):
        _help_parser().print_help()
        raise SystemExit(0 if len(argv) > 1 else 2)
    try:
        values([argv[0], *own_args])
    except flags.Error as error:
        raise UserError(" ".join(str(error).split())) from error
    if not values.topology:
        raise UserError("--topology is missing: name the devices, such as --topology v5e:4x4 or here")
    for name in values.only:
        if name not in PROGRAMS:
            raise UserError(f"--only {name} is unknown: choose from {', '.join(PROGRAMS)}")
    if values.batch_size is not None:
        config_args.append(f"--config.batch_size={values.batch_size}")
    config = parse_flags([argv[0], *config_args, "--workdir", "unused"])[0]
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


def _flags() -> flags.FlagValues:
    """Returns this command's own flags."""
    values = flags.FlagValues()
    topology = (
        "what to compile for, which is required: v5e:4x4, v5p:4x4x4, v6e:8x8 or another slice of these TPUs "
        f"(needs requirements-aot.txt); {', '.join(gpus.GPUS)}, several as h100:8, or on two machines as "
        "h100:2x8 (needs 'jax[cuda12]'); here, gpu, cpu, or cpu:N"
    )
    flags.DEFINE_string("topology", None, topology, flag_values=values)
    batch_size = "short for --config.batch_size; default: the config's"
    flags.DEFINE_integer("batch_size", None, batch_size, flag_values=values)
    identities = "number of training identities, for the loss 'id'; default: the data set's own"
    flags.DEFINE_integer("identities", None, identities, flag_values=values)
    workdir = "folder of the report; default: one below runs/aot"
    flags.DEFINE_string("workdir", None, workdir, flag_values=values)
    flags.DEFINE_list("only", list(PROGRAMS), "programs to compile, separated by commas", flag_values=values)
    hlo = "folder for the text of the compiled programs; default: not written"
    flags.DEFINE_string("hlo", None, hlo, flag_values=values)
    less = "try settings that need less memory if the train step does not fit"
    flags.DEFINE_bool("try_settings", True, less, flag_values=values)
    return values


def _help_parser() -> parser.Parser:
    command = "python -m tpr_jax.aot"
    built = parser.Parser(
        prog=command,
        usage=f"{command} --config configs/NAME.py[:DATASET] --topology TOPOLOGY [...]",
        description="Compiles a config for devices that you need not have, and reports memory, operations "
        "and communication.",
        examples=(
            f"{command} --config configs/dm_adapter.py:cuhk_pedes --topology v5e:4x4 --batch_size 512",
        ),
    )
    parser.add_config_flags(built)
    values = _flags()
    metavars = {"topology": "TOPOLOGY", "batch_size": "N", "identities": "N", "workdir": "DIR", "hlo": "DIR"}
    metavars["only"] = "PROGRAM,..."
    parser.add_flags(built, [values[name] for name in (*metavars, "try_settings")], metavars)
    return built


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Splits the arguments into this command's own and those of the config."""
    own_args, config_args, into = [], [], None
    for argument in argv[1:]:
        if argument.startswith("-"):
            into = config_args if argument.lstrip("-").startswith(("config", "noconfig")) else own_args
        (own_args if into is None else into).append(argument)
    return own_args, config_args


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
    """Compiles a config's programs for a topology.

    Args:
      config: the config.
      topology: the devices, see `devices.devices`.
      only: the programs to compile.
      identities: the number of training identities, for the loss "id".
      try_settings: whether to try settings that need less memory if the train step does not fit.
      hlo: a folder for the compiled programs' text.
      say: called with each line of the report as soon as it is known.

    Returns:
      The report, as written to aot.json.

    Raises:
      UserError: the topology is unknown, its compiler is missing, or the config does not fit it.
    """
    devices = find_devices(topology)
    from tpr_jax.aot.programs import sizes_of
    from tpr_jax.distributed.sharding import make_mesh

    mesh = make_mesh(**config.mesh, devices=devices)
    sizes, rows_per_device = sizes_of(config), config.batch_size // len(devices)
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        say(line)

    tell(
        f"{config.method.name} on {config.backbone} at {sizes.image_size[0]} x {sizes.image_size[1]}, batch "
        f"{config.batch_size} ({rows_per_device} per chip), {config.dtype}, remat {config.remat}, accumulate "
        f"{config.accumulate}, for {len(devices)} x {devices[0].device_kind} as "
        f"{mesh.shape['data']} x {mesh.shape['model']}"
    )
    results = _compile(config, mesh, only, identities, tell, hlo)
    helps = {}
    if try_settings and "shortage" in results.get("train_step", {}):
        helps["helps"] = _find_fitting_settings(config, mesh, results["train_step"], identities, tell)
    settings = {
        key: getattr(config, key) for key in ("batch_size", "dtype", "remat", "accumulate", "scan_layers")
    }
    return {
        "method": config.method.name,
        "backbone": config.backbone,
        "topology": topology,
        "device_kind": devices[0].device_kind,
        "devices": len(devices),
        "mesh": dict(mesh.shape),
        **settings,
        "programs": {name: results[name] for name in only if name in results},
        **helps,
        "lines": lines,
    }


def _compile(config: ConfigDict, mesh, only, identities, tell: Callable, hlo=None) -> dict[str, dict]:
    """Compiles the programs in `only`; returns the analysis of each, or the `shortage` if it does not fit."""
    from tpr_jax.aot import report as aot_report
    from tpr_jax.aot.programs import programs

    results = {}
    for name, program in programs(config, mesh, identities).items():
        if name not in only:
            continue
        start = time.perf_counter()
        try:
            compiled = program.lower().compile()
        except Exception as error:  # the type depends on the compiler
            if (short := aot_report.shortage(str(error))) is None:
                raise
            results[name] = {"shortage": short, "held": program.argument_bytes}
        else:
            if hlo:
                write_text(Path(hlo) / f"{name}.txt", compiled.as_text())
            analysis = aot_report.analyze(
                compiled,
                program.argument_bytes,
                minimum=program.minimum,
                all_experts=program.all_experts,
                devices=list(mesh.devices.flat),
                dtype=config.dtype,
            )
            kind = mesh.devices.flat[0].device_kind
            if short := gpus.shortage(kind, analysis["memory"]["total"]):
                analysis = {"shortage": short, "held": program.argument_bytes}
        results[name] = {**analysis, "compile_seconds": time.perf_counter() - start}
        rows = config.batch_size if name == "train_step" else config.eval_batch_size
        for line in aot_report.lines(name, results[name], rows):
            tell(line)
    return results


def settings_to_try(config: ConfigDict, shortage: dict, argument_bytes: int, data: int) -> list[dict]:
    """Returns settings that need less memory than the config's, the cheapest first.

    The number of microbatches is chosen so that everything but the arguments fits into the available memory.

    Args:
      config: the config.
      shortage: the `needed` and `available` bytes of the train step.
      argument_bytes: the bytes of its arguments.
      data: the size of the mesh's axis `data`.
    """
    candidates = [
        {"remat": kind} for kind in ("dots", "block") if kind != config.remat and config.remat == "none"
    ]
    available, needed = (shortage[key] - argument_bytes for key in ("available", "needed"))
    rows = config.batch_size // data
    divisors = [n for n in range(2, rows + 1) if rows % n == 0 and n > config.accumulate]
    enough = [n for n in divisors if available > 0 and needed * config.accumulate / n < 0.9 * available]
    microbatches = [{"accumulate": n} for n in (enough[:2] or divisors[-1:])]
    return [*candidates, *microbatches, *({"remat": "block", **setting} for setting in microbatches[:1])]


def _find_fitting_settings(config: ConfigDict, mesh, result: dict, identities, tell: Callable) -> dict | None:
    """Returns the first settings with which the train step compiles and fits, and its analysis, or None."""
    argument_bytes = sum(result["held"].values())
    for change in settings_to_try(config, result["shortage"], argument_bytes, mesh.shape["data"]):
        changed = ConfigDict(config.to_dict())
        changed.update(change)
        words = " ".join(f"--config.{key}={value}" for key, value in change.items())
        tell(f"with {words}:")
        tried = _compile(changed, mesh, ("train_step",), identities, tell)["train_step"]
        if "shortage" not in tried:
            tell(f"it fits with {words}")
            return {**change, **tried}
    tell("none of them fits: use a smaller --batch_size, more chips, or --config.mesh.model above 1")
    return None


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
