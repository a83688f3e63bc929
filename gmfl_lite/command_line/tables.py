"""What verbs print: tables as wide as their content, numbers as a reader wants them."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from ..experiment import Experiment
from ..result import Result


def names(experiments: Sequence[Experiment], weights_seeds: Sequence[int]) -> list[str]:
    """Return a name for each, of what differs between them.

    >>> names([Experiment(nu=3), Experiment(nu=0)], [0, 0])
    ['nu = 3', 'nu = 0']
    """
    found = [{**vars(one), "weights_seed": seed} for one, seed in zip(experiments, weights_seeds, strict=True)]
    varied = [name for name in found[0] if len({each[name] for each in found}) > 1] or ["nu"]
    called = [", ".join(f"{name} = {each[name]}" for name in varied) for each in found]
    return [name if called.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(called, 1)]


def of_run(result: Result) -> str:
    """Return how well agents do after 0, 1, … fine-tuning steps."""
    if result.history.empty:
        return "nothing was scored"
    table, accuracy = result.table(), "accuracy" in result.history
    frame = _shown(table, table.columns, accuracy).reset_index(names="agents")
    return f"{_caption(accuracy)}\n{frame.to_string(index=False)}"


def of_sweep(table: pd.DataFrame, varied: Iterable[str]) -> str:
    """Return a row for each point and group, with the numbers of steps across; a point without scores is a row, too."""
    accuracy = "accuracy" in table or "loss" not in table
    score = "accuracy" if accuracy else "loss"
    varied, rows, steps = list(varied), dict[Any, dict[str, Any]](), dict[int, None]()
    for record in table.to_dict("records"):
        scored = isinstance(group := record.get("group"), str)
        where = {**{name: str(record[name]) for name in varied}, "agents": group if scored else "-"}
        row = rows.setdefault(tuple(where.values()), {**where, "status": record["status"]})
        if scored:
            row[int(record["fine_tune_steps"])] = record[score]  # type: ignore[index]
            steps[int(record["fine_tune_steps"])] = None
    across = sorted(steps)
    frame = pd.DataFrame(list(rows.values()), columns=[*varied, "agents", *across, "status"])
    text = f"{_caption(accuracy)}\n{_shown(frame, across, accuracy).to_string(index=False, na_rep='-')}"
    said = dict.fromkeys(table.loc[table["status"].isin(["failed", "diverged"]), "message"])
    return "\n".join([text, *map(str, said)])


def of_trials(trials: pd.DataFrame) -> str:
    """Return a row for each trial of a search."""
    frame = _shown(trials, ["accuracy"], True) if "accuracy" in trials else trials
    heads = {"accuracy": "accuracy (%)"}
    return frame.rename(columns=heads).to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep="-")


def _caption(accuracy: bool) -> str:
    return f"{'accuracy (%)' if accuracy else 'loss'} after so many fine-tuning steps"


def _shown(frame: pd.DataFrame, columns: Iterable[Any], accuracy: bool) -> pd.DataFrame:
    """Return the frame with these columns as text."""

    def text(value: float) -> str:
        return "-" if pd.isna(value) else f"{100 * value:.1f}" if accuracy else f"{value:.4g}"

    shown = frame.astype(dict.fromkeys(columns, object))
    for column in columns:
        shown[column] = frame[column].map(text).astype(object)
    return shown
