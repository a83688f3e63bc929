"""`python -m gmfl_lite sweep`: run every point of a grid that a file describes."""

from pathlib import Path

import click

from . import options


@click.command(short_help="Run every combination of the values that FILE lists.")
@options.file
@options.changes
@options.csv("all rows, with every group and number of steps,")
@options.processes
@options.cache
@options.quiet
def sweep(
    file: Path, changes: dict[str, str], csv: Path | None, processes: int | None, cache: Path | None, quiet: bool
) -> None:
    """Run every combination of the values that FILE lists under grid:, and print one table.

    \b
        rounds: 20
        grid:
          nu: [0, 1, 5]
          seed: [0, 1, 2]

    A point that diverges or fails is a row that says so; the others go on.

    \b
        python -m gmfl_lite sweep sweep.yaml --csv table.csv --processes 4 --cache finished
    """
    import pandas as pd

    from ..sweep import sweep as of_the_library
    from . import tables
    from .files import Failed, in_words, keep, read_sweep
    from .processes import workers

    grid, base, places = read_sweep(file, changes)
    done: dict[int, pd.DataFrame] = {}
    try:
        with in_words(places), workers(processes) as executor:
            table = of_the_library(
                grid, base, executor=executor, cache=cache, on_point=done.__setitem__, progress=not quiet
            )
        stopped = False
    except KeyboardInterrupt:
        table = pd.concat([done[number] for number in sorted(done)], ignore_index=True) if done else pd.DataFrame()
        stopped = True
    if len(table):
        not_kept = keep(csv, table.to_csv(index=False).encode())
        click.echo(tables.of_sweep(table, grid))
        if not_kept:
            raise Failed(not_kept)
    if stopped:
        click.echo(f"stopped after {len(done)} points", err=True)
        raise click.exceptions.Exit(130)
    if failed := sum((rows["status"] == "failed").any() for rows in done.values()):
        raise Failed(f"{failed} of {len(done)} points failed")
