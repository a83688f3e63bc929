"""The command line: `python -m gmfl_lite` runs, sweeps and tunes what a file of settings describes, and checks a GPU.

A verb is a click command in a module of its own; VERBS lists them, and nothing else needs to know of a new one. What a
verb alone needs, it imports inside its function.
"""

import sys

import click

from ..basics import __version__
from .verb_gpu_check import gpu_check
from .verb_run import run
from .verb_sweep import sweep
from .verb_tune import tune

VERBS = (run, sweep, tune, gpu_check)


@click.group(commands=VERBS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gmfl_lite")
def program() -> None:
    """Meta federated learning from a file of settings.

    A file is YAML, a line for each setting that differs from the default; gmfl_lite.Experiment has all of them:

    \b
        nu: 3
        rounds: 20
        dirichlet_alpha: 0.1

    "Take it away" in the panel gives such a file. Tables go to the standard output, all else to the standard error.

    \b
    The exit code is
      0    when all is done,
      1    when a run diverged or failed,
      2    when the file or an option is wrong: nothing was run,
      130  when Ctrl-C stopped it: what there was by then is printed and saved.
    """


def main() -> None:
    """Be the program: a terminal that lacks a letter shows a question mark, and is no reason to stop."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    program()
