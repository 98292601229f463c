"""The help of `tpr_jax.main`, and the options whose values modules know that are slow to import.

This module imports neither JAX nor TensorFlow.
"""

from absl import flags

from tpr_jax.cli.parser import Parser, add_config_flags, add_flags
from tpr_jax.config.flags import Command, define_flags


def help_parser() -> Parser:
    """Returns a parser that prints the help; the command line itself is read by `parse_command`."""
    command = "python -m tpr_jax.main"
    parser = Parser(
        prog=command,
        usage=f"{command} --config configs/NAME.py[:DATASET] --workdir DIR [--config.KEY=VALUE ...] [...]",
        description="Trains or evaluates a model as a config describes.",
        examples=(
            f"{command} --config configs/dm_adapter.py --workdir runs/demo",
            f"{command} --config configs/lora.py:cuhk_pedes --workdir runs/lora --config.data_dir=DIR",
        ),
    )
    add_config_flags(parser)
    values = flags.FlagValues()
    define_flags(values)
    metavars = {"workdir": "DIR", "mode": "train|eval", "coordinator": "HOST:PORT", "peer_timeout": "SECONDS"}
    metavars |= {"num_processes": "N", "process_id": "I", "rerank": "all|NAME,NAME"}
    metavars["vectors"] = "SIZE,SIZE"
    add_flags(parser, [values[name] for name in (*metavars, "compilation_cache", "initial")], metavars)
    return parser


def rerank_names(command: Command) -> list[str]:
    """Returns the names in --rerank; empty without it.

    Raises:
      UserError: a name is unknown.
    """
    if command.rerank is None:
        return []
    from tpr_jax.metrics import rerank  # imports SciPy and Numba

    return rerank.parse_names(command.rerank)


def vector_sizes(command: Command) -> list[int]:
    """Returns the sizes in --vectors; empty without it.

    Raises:
      UserError: a size is not a positive number.
    """
    if command.vectors is None:
        return []
    from tpr_jax.metrics import compress  # imports SciPy and Numba

    return compress.parse_sizes(command.vectors)
