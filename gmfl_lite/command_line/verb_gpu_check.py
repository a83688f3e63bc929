"""`python -m gmfl_lite gpu-check`: is a GPU equal to the CPU, and how fast is it?"""

from pathlib import Path

import click

from . import options


@click.command("gpu-check", short_help="Compare a GPU with the CPU, and time it.")
@click.option("--device", default="cuda", show_default=True, help='Where to compute; "cpu" tries the program out.')
@click.option("--minutes", default=5.0, show_default=True, type=click.FloatRange(0), help="Begin no more after them.")
@click.option("--few", is_flag=True, help="Compare and time little, to try the program out.")
@click.option("--page", metavar="FILE", type=options.ToWrite(".md"), help="Write what was found there, as Markdown.")
def gpu_check(device: str, minutes: float, few: bool, page: Path | None) -> None:
    """Train on a GPU and on the CPU, compare, and time steps, rounds and runs: five minutes.

    \b
        python -m gmfl_lite gpu-check --page GPU.md

    The exit code is 1 if the GPU trains otherwise than the CPU. Pages of other cards: benchmarks/GPU.md.
    """
    from ..gpu_check import check
    from .files import Failed, keep

    try:
        equal, found = check(device, minutes=minutes, few=few, say=lambda line: click.echo(line, err=True))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    not_kept = keep(page, found.encode())
    click.echo(found, nl=False)
    if not_kept:
        raise Failed(not_kept)
    if not equal:
        raise Failed("the GPU does not train as the CPU does")
