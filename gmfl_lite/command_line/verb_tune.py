"""`python -m gmfl_lite tune`: search for the step sizes that are best for what a file describes."""

from pathlib import Path
from typing import Any

import click

from . import options


@click.command(short_help="Find the step sizes that are best for what FILE describes.")
@options.file
@options.changes
@options.words("--settings", "NAME,NAME", "What is searched for; fine_tune_lr,meta_lr unless given.")
@click.option("--steps", metavar="N", type=click.IntRange(0), help="Score after N fine-tuning steps; 5 unless given.")
@options.words("--validation-seeds", "N,N", "Compare settings on these seeds; 1000,1001,1002 unless given.")
@click.option("--trials", metavar="N", type=click.IntRange(1), help="Try at most N settings; 75 unless given.")
@click.option("--save", metavar="FILE", type=options.ToWrite(), help="Write the best experiment there, for `run`.")
@options.csv("every trial")
@options.processes
@options.cache
@options.quiet
def tune(
    file: Path,
    changes: dict[str, str],
    settings: list[str] | None,
    steps: int | None,
    validation_seeds: list[str] | None,
    trials: int | None,
    save: Path | None,
    csv: Path | None,
    processes: int | None,
    cache: Path | None,
    quiet: bool,
) -> None:
    """Find the step sizes with which what FILE describes does best.

    The search begins at the file's step sizes, and compares settings on seeds other than the file's.

    \b
        python -m gmfl_lite tune experiment.yaml --set rounds=50 --save best.yaml
        python -m gmfl_lite run best.yaml
    """
    import pandas as pd

    from ..basics.plain_yaml import written
    from ..sweep import tune as of_the_library
    from . import tables
    from .files import Failed, Refused, in_words, keep, read_experiment
    from .processes import workers

    asked = read_experiment(file, changes)
    seeds = validation_seeds if validation_seeds is None else [int(s) if s.isdecimal() else s for s in validation_seeds]
    asked_for = {"settings": settings, "steps": steps, "validation_seeds": seeds, "trials": trials}
    given: dict[str, Any] = {name: value for name, value in asked_for.items() if value is not None}
    places = {**asked.places, **{name: f"--{name.replace('_', '-')}" for name in given}}
    rows: list[dict[str, Any]] = []
    tuned, problem = None, None
    try:
        with in_words(places), workers(processes) as executor:
            tuned = of_the_library(
                asked.experiment, **given, executor=executor, cache=cache, on_trial=rows.append, progress=not quiet
            )
    except Refused as error:
        if not rows:
            raise
        problem = Failed(str(error.__cause__))  # all diverged
    except KeyboardInterrupt:
        pass
    table = pd.DataFrame(rows)
    not_kept = []
    if rows:
        not_kept.append(keep(csv, table.to_csv(index=False).encode()))
    if tuned is not None:
        best = {name: getattr(tuned.best, name) for name in tuned.settings}
        not_kept.append(keep(save, f"{written({**asked.values, **best})}\n".encode()))
    if rows:
        click.echo(tables.of_trials(table))
    if tuned is not None:
        found = ", ".join(f"{name} = {getattr(tuned.best, name)!r}" for name in tuned.settings)
        click.echo(f"the best of {len(rows)}: {found}")
    if any(not_kept):
        raise Failed("\n".join(filter(None, not_kept)))
    if problem is not None:
        raise problem
    if tuned is None:
        click.echo(f"stopped after {len(rows)} trials, before there was a best one", err=True)
        raise click.exceptions.Exit(130)
    if tuned.at_edge:
        click.echo("it need not be the best: trials were missing (--trials), or a setting made no difference", err=True)
