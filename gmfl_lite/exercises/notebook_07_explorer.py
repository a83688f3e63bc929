"""Which experiments make a fair comparison."""

import sys
from typing import Any

import gmfl_lite as gl

from .exercise import exercise
from .marking import Wrong


def _mark_fair_comparison(answer: Any) -> None:
    if not isinstance(answer, (list, tuple)) or not answer or not all(isinstance(one, gl.Experiment) for one in answer):
        raise Wrong("A list of `gl.Experiment`s is asked for, such as `[base.replace(nu=0), …]`.")
    settings = [one.to_dict() for one in answer]
    varied = [name for name in settings[0] if any(one[name] != settings[0][name] for one in settings)]
    others = [name for name in varied if name not in ("nu", "seed")]
    if others:
        raise Wrong(f"Not only ν and the seed differ, but also {', '.join(others)}: nobody could tell which did it.")
    base = getattr(sys.modules["__main__"], "base", None)  # the notebook's
    if isinstance(base, gl.Experiment):
        changed = [name for name, value in base.to_dict().items() if settings[0][name] != value]
        if away := [name for name in changed if name not in ("nu", "seed")]:
            raise Wrong(f"The question is about `base`, and your experiments have another {', '.join(away)}.")
    seeds = {nu: {one["seed"] for one in settings if one["nu"] == nu} for nu in (0, 3)}
    if not seeds[0]:
        raise Wrong("FedAvg is missing: something to compare with.")
    if not seeds[3]:
        raise Wrong("ν = 3 is missing.")
    extra = {one["nu"] for one in settings} - {0, 3}
    if extra:
        raise Wrong(f"The question is about ν = 0 and ν = 3 only; your list also has ν = {min(extra)}.")
    if seeds[0] != seeds[3]:
        raise Wrong(
            "FedAvg and ν = 3 have different seeds, so they differ by their agents and weights as well. Pair them: "
            "the same seeds for both."
        )
    if len(seeds[0]) < 3:
        raise Wrong(f"With {len(seeds[0])} seed(s) there is no telling a difference from luck. Take three.")
    if len(answer) != 2 * len(seeds[0]):
        raise Wrong("Some experiment is there twice. The same experiment gives the same result again.")


@exercise(
    mark=_mark_fair_comparison,
    hint="`base.replace(nu=…, seed=…)` in a list comprehension with two `for`. Which values does ν need, and which "
    "the seed?",
    why="Runs with the same seed share partition, weights and picks, so each pair differs by ν alone, and the pairs "
    "show how large luck is. Give the list to `gl.sweep` and you have the table.",
)
def fair_comparison():
    base = gl.Experiment(partition="iid", permuted_classes=10)  # without this line where there is a `base`
    return [base.replace(nu=nu, seed=seed) for nu in (0, 3) for seed in (0, 1, 2)]
