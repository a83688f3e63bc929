"""Does ν help? Every method with step sizes of its own, tuned on agents that are never scored, on fresh seeds.

python studies/evidence.py [--quick] [--jobs 2] [--cache artefacts/evidence]

Writes results.csv, curves.csv and tuning.csv into studies/evidence/ (or studies/evidence-quick/). Every run is kept in
the cache as soon as it ends: stopped at any moment, the same command goes on from there and ends with the same tables.
"""

import argparse
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

import gmfl_lite as gl

VALIDATION_SEEDS = (1000, 1001, 1002)
"""Of the federations that step sizes are tuned on; no federation of these seeds is ever scored."""
DEPLOYED = 5
"""ν′, the fine-tuning steps after which step sizes are compared; the same for all methods."""

_COMMON = {
    "partition": "iid", "model": "mlp", "agents_per_round": 10, "eval_steps": (0, 1, 2, 5, 10),
    "execution": "vectorized", "device": "cpu",
}  # fmt: skip
DATASETS = {
    "digits": gl.Experiment(
        dataset="digits", n_agents=20, n_new_agents=10, test_fraction=0.33, batch_size=None, rounds=30, eval_every=3,
        fine_tune_lr=0.5, meta_lr=0.5, **_COMMON,
    ),
    "fashion-mnist": gl.Experiment(
        dataset="fashion-mnist", n_agents=60, n_new_agents=20, test_fraction=0.8, batch_size=50, rounds=60,
        eval_every=10, fine_tune_lr=0.5, meta_lr=0.5, **_COMMON,
    ),
}  # fmt: skip
"""What all methods share; the step sizes are where their search begins."""
PER_FEDAVG_A = {"digits": 10, "fashion-mnist": 100}

SHIFTS = {
    "10 classes permuted": {"permuted_classes": 10},
    "4 classes permuted": {"permuted_classes": 4},
    "IID": {},
    "Dirichlet 0.1": {"partition": "dirichlet", "dirichlet_alpha": 0.1},
    "Dirichlet 0.3": {"partition": "dirichlet", "dirichlet_alpha": 0.3},
    "Dirichlet 1": {"partition": "dirichlet", "dirichlet_alpha": 1.0},
    "two classes an agent": {"partition": "shards", "classes_per_agent": 2},
    "Per-FedAvg split": {"partition": "per_fedavg"},
    "rotation ± 90°": {"max_rotation": 90.0},
}
"""How agents differ."""


@dataclass(frozen=True)
class Cell:
    """One method in one regime, and how many seeds it is scored on."""

    dataset: str
    shift: str
    nu: int
    local_steps: int = 1
    gradient: str = "exact"
    rounds: int = 0
    seeds: int = 5
    validation_seeds: int = 2

    @property
    def start(self) -> gl.Experiment:
        changes = dict(SHIFTS[self.shift])
        if changes.get("partition") == "per_fedavg":
            changes["per_fedavg_a"] = PER_FEDAVG_A[self.dataset]
        changes |= {"nu": self.nu, "local_steps": self.local_steps, "gradient": self.gradient}
        if self.rounds:
            changes |= {"rounds": self.rounds, "eval_every": self.rounds // 12}
        return DATASETS[self.dataset].replace(**changes)


def tune(cell: Cell, cache: Path | None) -> pd.DataFrame:
    """Search step sizes on the validation seeds alone; return what was tried, the best last.

    A compass search: from the start, go to the best of the four neighbours (one of the two step sizes times or over 2)
    as long as that is better, then the same with √2. It has no edge that the best could lie beyond.
    """
    start, seeds = cell.start, VALIDATION_SEEDS[: cell.validation_seeds]
    tried: dict[tuple[float, float], float] = {}

    def accuracy(point: tuple[float, float]) -> float:
        if point not in tried:
            alpha, beta = point
            run = start.replace(fine_tune_lr=alpha, meta_lr=beta, eval_every=start.rounds, eval_steps=(DEPLOYED,))
            rows = gl.sweep([run.replace(seed=seed) for seed in seeds], cache=cache, progress=False)
            new = rows[rows["group"] == "new"]["accuracy"] if (rows["status"] == "completed").all() else None
            tried[point] = -1.0 if new is None else new.mean()
        return tried[point]

    best = start.fine_tune_lr, start.meta_lr
    for factor in (2, 2**0.5):
        while True:
            alpha, beta = best
            around = [best, (alpha * factor, beta), (alpha / factor, beta), (alpha, beta * factor), (alpha, beta / factor)]
            better = max(around, key=accuracy)  # the first of equals, so that it comes to rest
            if better == best:
                break
            best = better
    ordered = [*(point for point in tried if point != best), best]
    return pd.DataFrame(
        [(*point, tried[point]) for point in ordered], columns=["fine_tune_lr", "meta_lr", "validation_accuracy"]
    )


def score(cell: Cell, fine_tune_lr: float, meta_lr: float, cache: Path | None) -> pd.DataFrame:
    """Run tuned step sizes on the seeds 0, 1, …: one row per seed, round, group and number of fine-tuning steps."""
    seeds = range(cell.seeds)
    assert not set(seeds) & set(VALIDATION_SEEDS)
    run, frames = cell.start.replace(fine_tune_lr=fine_tune_lr, meta_lr=meta_lr), []
    for seed in seeds:
        rows = gl.sweep([run.replace(seed=seed)], cache=cache, progress=False, history=True)
        frames.append(rows.assign(seed=seed))
    return pd.concat(frames, ignore_index=True)


def plan() -> list[Cell]:
    """Which methods are tried in which regimes, the most wanted first."""
    headline = "10 classes permuted"
    digits = {"dataset": "digits", "shift": headline, "seeds": 10, "validation_seeds": 3}
    fashion = {"dataset": "fashion-mnist", "shift": headline}
    core = ({"nu": 1}, {"nu": 3}, {"nu": 0}, {"nu": 0, "local_steps": 10})
    cells = [Cell(**regime, **method) for method in core for regime in (fashion, digits)]
    more = [{"nu": nu} for nu in (5, 10, 2)] + [{"nu": 0, "local_steps": 5}]
    cells += [Cell(**digits, **method) for method in more]
    cells += [Cell(**digits, **method, rounds=150) for method in core[:2]]
    shifts = ("IID", "Dirichlet 0.1", "two classes an agent", "4 classes permuted", "rotation ± 90°", "Per-FedAvg split")
    methods = ({"nu": 1}, {"nu": 3}, {"nu": 0}, {"nu": 0, "local_steps": 5})
    cells += [Cell("digits", shift, **method, validation_seeds=1) for shift in shifts for method in methods]
    rest = [{"nu": 3, "gradient": "first_order"}, {"nu": 1, "local_steps": 5}, {"nu": 3, "local_steps": 5}]
    cells += [Cell(**digits, **method) for method in (*rest, {"nu": 3, "gradient": "hessian_free"})]
    cells += [Cell(**fashion, **method) for method in ({"nu": 5}, {"nu": 0, "local_steps": 5})]
    cells += [Cell("digits", shift, **m, validation_seeds=1) for shift in ("Dirichlet 1", "Dirichlet 0.3") for m in methods]
    cells += [Cell(**fashion, **method) for method in rest]
    return cells


def study(cell: Cell, cache: Path | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tune a cell and score it; return what was tried and what was scored."""
    tried = tune(cell, cache)
    best = tried.iloc[-1]
    print(cell, best.round(4).tolist(), flush=True)
    scored = score(cell, best["fine_tune_lr"], best["meta_lr"], cache)
    last = scored[scored["round"] == cell.start.rounds].query("group == 'new' and fine_tune_steps == 5")
    print(cell, last["accuracy"].round(3).tolist(), round(last["accuracy"].mean(), 4), flush=True)
    return tried, scored


if __name__ == "__main__":
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        for future in [executor.submit(study, cell, Path("/tmp/evidence-cache")) for cell in plan()]:
            future.result()
