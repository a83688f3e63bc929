"""`python -m gmfl_lite run`: train what a file describes, and score it."""

import io
from pathlib import Path

import click

from . import options


@click.command(short_help="Train what FILE describes, and score it.")
@options.file
@options.changes
@click.option("--save", metavar="FILE", type=options.ToWrite(), help="Keep the result, for gl.load_result.")
@click.option(
    "--figure",
    metavar="FILE",
    type=options.ToWrite(".png", ".svg", ".pdf"),
    help="Draw accuracy against fine-tuning steps: a .png, .svg or .pdf.",
)
@options.quiet
def run(file: Path, changes: dict[str, str], save: Path | None, figure: Path | None, quiet: bool) -> None:
    """Train the model that FILE describes, and print how well agents do after 0, 1, ... fine-tuning steps.

    FILE may hold several experiments, with a line "---" between them; they are run in turn and drawn in one figure.

    \b
        python -m gmfl_lite run experiment.yaml --set nu=1 --set rounds=20 --figure adaptation.png
    """
    from . import tables
    from .files import Failed, in_words, keep, read_experiments

    asked = read_experiments(file, changes)
    if save is not None and len(asked) > 1:
        raise click.UsageError(f"--save keeps one result, and {file.name} holds {len(asked)} experiments.")
    called = tables.names([one.experiment for one in asked], [one.weights_seed for one in asked])
    results = {}
    for name, one in zip(called, asked, strict=True):
        with in_words(one.places):
            results[name] = result = one.run(progress=not quiet)
        not_kept = keep(save, result.save)
        click.echo(f"{name}: {result.status}\n{tables.of_run(result)}")
        if not_kept:
            raise Failed(not_kept)
        if result.status == "stopped":
            break
    drawn = {name: result for name, result in results.items() if not result.history.empty}
    if figure is not None and drawn:
        from ..plots import accuracy_against_steps

        picture = io.BytesIO()
        with in_words({}):
            accuracy_against_steps(drawn).savefig(picture, format=figure.suffix[1:].lower())
        if not_kept := keep(figure, picture.getvalue()):
            raise Failed(not_kept)
    if result.status == "stopped":
        click.echo(result.message, err=True)
        raise click.exceptions.Exit(130)
    if diverged := [f"{name}: {one.message}" for name, one in results.items() if one.status == "diverged"]:
        raise Failed("\n".join(diverged))
