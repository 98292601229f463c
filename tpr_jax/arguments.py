"""Command lines of the commands that take no config."""

import argparse

from tpr_jax.errors import UserError


class Parser(argparse.ArgumentParser):
    """Mistakes are one line, as everywhere. `prog` is `python -m MODULE`, which says where the help is."""

    def error(self, message: str):
        command = " ".join(self.prog.split()[:3])  # a subcommand's parser has its name behind
        raise UserError(f"{message}; see {command} --help")
