"""Does ν help? Every method with step sizes of its own, tuned on agents that are never scored, on fresh seeds.

python studies/evidence.py [--quick] [--jobs 2] [--cache FOLDER] [--out FOLDER]
python studies/evidence.py --time

The first writes tuning.csv (every step size that was tried), results.csv (how every tuned run ended) and curves.csv
(its new agents on the way, after 5 steps) to studies/evidence, or with --quick, in a minute, to studies/evidence-quick.
Each run is kept in the cache as soon as it ends: stopped at any moment, the same command goes on from there and ends
with the same tables. The second measures what a round of each method costs on this machine, and writes timings.csv.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

import gmfl_lite as gl
from gmfl_lite.engine.threads_and_memory import usable_cores

ROOT = Path(__file__).resolve().parent.parent
VALIDATION_SEEDS = (1000, 1001, 1002, 1003, 1004)
"""Of the federations that step sizes are tuned on; no federation of these seeds is ever scored."""
DEPLOYED = 5
"""ν′, the fine-tuning steps after which step sizes are compared; the same for all methods."""
RESTARTS = 4
FINALISTS = 8
"""Step sizes of a method that are compared on all VALIDATION_SEEDS."""
STARTS = ((0, 0), (-6, 0), (0, -6), (-3, -3))
"""Where a search begins: by how many powers of √2 fine_tune_lr and meta_lr differ from the dataset's."""

_COMMON = {
    "partition": "iid", "model": "mlp", "agents_per_round": 10, "eval_steps": (0, 1, 2, 5, 10),
    "execution": "vectorized", "device": "cpu", "precision": "float64",
}  # fmt: skip
DATASETS = {
    "digits": gl.Experiment(
        dataset="digits", n_agents=20, n_new_agents=10, test_fraction=0.33, batch_size=None, rounds=30, eval_every=3,
        fine_tune_lr=0.5, meta_lr=0.5, **_COMMON,
    ),
    "fashion-mnist": gl.Experiment(
        dataset="fashion-mnist", n_agents=60, n_new_agents=20, test_fraction=0.8, batch_size=50, rounds=40,
        eval_every=10, fine_tune_lr=0.5, meta_lr=0.5, **_COMMON,
    ),
    "tiny digits": gl.Experiment(
        dataset="digits", n_agents=20, n_new_agents=10, test_fraction=0.5, batch_size=10, rounds=10, eval_every=5,
        fine_tune_lr=0.5, meta_lr=0.5, **{**_COMMON, "agents_per_round": 5},
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
HEADLINE = "10 classes permuted"
"""Where looking ahead should help most."""
OFTEN = {"digits": 2, "fashion-mnist": 5, "tiny digits": 5}
"""Rounds between two evaluations there, where costs to the same accuracy are compared."""


@dataclass(frozen=True)
class Cell:
    """One method in one regime, on how many seeds it is tuned and on how many others it is scored.

    dataset, shift : keys of DATASETS and SHIFTS.
    rounds : another number of rounds than the dataset's, or 0.
    """

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
        """Where the search for this method's step sizes begins."""
        changes = dict(SHIFTS[self.shift])
        if changes.get("partition") == "per_fedavg":
            changes["per_fedavg_a"] = PER_FEDAVG_A[self.dataset]
        changes |= {"nu": self.nu, "local_steps": self.local_steps, "gradient": self.gradient}
        if self.rounds:
            changes |= {"rounds": self.rounds, "eval_every": self.rounds // 12}
        elif self.shift == HEADLINE:
            changes |= {"eval_every": OFTEN[self.dataset]}
        return DATASETS[self.dataset].replace(**changes)


def tune(cell: Cell, cache: Path | None) -> pd.DataFrame:
    """Search step sizes on validation seeds alone; return what was tried and which are chosen.

    A compass search over powers of √2 on the first `cell.validation_seeds`, from each of STARTS: go to the best of the
    four neighbours (one of the two step sizes times or over 2) as long as that is better; then from the best of all the
    same with √2. It has no edge that the best could lie beyond, but may rest on a local best; therefore several starts.
    The best of many on few seeds is often there by luck, or one step before divergence, where another federation
    diverges: the best FINALISTS that diverge on none of all VALIDATION_SEEDS are compared on all of them.
    """
    tried: dict[tuple[int, int], dict[str, float | bool | None]] = {}

    def step_sizes(point: tuple[int, int]) -> dict[str, float]:
        exponents = zip(("fine_tune_lr", "meta_lr"), point, strict=True)
        return {name: getattr(cell.start, name) * 2 ** (exponent / 2) for name, exponent in exponents}

    def mean_accuracy(point: tuple[int, int], seeds: Sequence[int]) -> float:
        experiment = cell.start.replace(**step_sizes(point), eval_every=cell.start.rounds, eval_steps=(DEPLOYED,))
        rows = gl.sweep([experiment.replace(seed=seed) for seed in seeds], cache=cache, progress=False)
        completed = (rows["status"] == "completed").all()
        return rows.loc[rows["group"] == "new", "accuracy"].mean() if completed else -1.0

    def accuracy(point: tuple[int, int]) -> float:
        if point not in tried:
            mean = mean_accuracy(point, VALIDATION_SEEDS[: cell.validation_seeds])
            tried[point] = {**step_sizes(point), "validation_accuracy": mean, "accuracy_on_all": None, "chosen": False}
        return tried[point]["validation_accuracy"]

    def climb(best: tuple[int, int], stride: int) -> tuple[int, int]:
        while True:
            i, j = best
            around = [best, (i + stride, j), (i - stride, j), (i, j + stride), (i, j - stride)]
            better = max(around, key=accuracy)  # the first of equals, so that it comes to rest
            if better == best:
                return best
            best = better

    climb(max([climb(start, 2) for start in STARTS], key=accuracy), 1)
    finalists = []
    for point in sorted(tried, key=accuracy, reverse=True):
        mean = tried[point]["accuracy_on_all"] = mean_accuracy(point, VALIDATION_SEEDS)
        if mean >= 0:
            finalists.append(point)
        if len(finalists) == FINALISTS:
            break
    tried[max(finalists, key=lambda point: tried[point]["accuracy_on_all"])]["chosen"] = True
    return pd.DataFrame(list(tried.values()))


def score(cell: Cell, fine_tune_lr: float, meta_lr: float, cache: Path | None) -> pd.DataFrame:
    """Run tuned step sizes on the seeds 0, 1, … and return all evaluations.

    A run that diverges, which training itself shows, is started again with meta_lr over √2, as anybody would do: see
    `restarts`.
    """
    seeds = range(cell.seeds)
    assert not set(seeds) & set(VALIDATION_SEEDS)
    frames = []
    for seed in seeds:
        for restarts in range(RESTARTS + 1):
            sizes = {"fine_tune_lr": fine_tune_lr, "meta_lr": meta_lr / 2 ** (restarts / 2)}
            run = cell.start.replace(seed=seed, **sizes)
            rows = gl.sweep([run], cache=cache, progress=False, history=True)
            if rows["status"].iloc[0] == "completed":
                break
        frames.append(rows.assign(seed=seed, restarts=restarts))
    columns = ["seed", "restarts", "status", "round", "group", "fine_tune_steps", "accuracy", "worst_decile_accuracy"]
    return pd.concat(frames, ignore_index=True)[columns]


def plan() -> list[Cell]:
    """Which methods are tried in which regimes: what the committed tables hold.

    The whole product of datasets, shifts, τ, ν and gradients has thousands of cells. This is the part that decides
    whether ν helps: the regime where it should help most, on two datasets; there the whole line of ν at one local step,
    more numbers of local steps, the approximated gradients, and five times as many rounds (most of these on digits);
    and a map of the other ways to differ, with the methods that people choose between.
    """
    digits = {"dataset": "digits", "shift": HEADLINE, "seeds": 10, "validation_seeds": 2}
    fashion = {"dataset": "fashion-mnist", "shift": HEADLINE, "validation_seeds": 1}
    core = ({"nu": 1}, {"nu": 3}, {"nu": 0}, {"nu": 0, "local_steps": 10})
    several = [{"nu": nu, "local_steps": 5} for nu in (0, 1, 3)]
    first_order = {"nu": 3, "gradient": "first_order"}
    cells = [Cell(**regime, **method) for method in core for regime in (fashion, digits)]
    cells += [Cell(**digits, **method) for method in (*several, first_order, {"nu": 3, "gradient": "hessian_free"})]
    cells += [Cell(**digits, nu=nu) for nu in (2, 5, 10)]
    methods = (*core[:3], several[0])
    others = [shift for shift in SHIFTS if shift != HEADLINE]
    cells += [Cell("digits", shift, **method, validation_seeds=1) for shift in others for method in methods]
    cells += [Cell(**digits, nu=nu, local_steps=steps) for nu, steps in ((0, 2), (1, 2), (3, 2), (1, 10), (3, 10))]
    cells += [Cell(**digits, **method, rounds=150) for method in methods]
    cells += [Cell(**fashion, **method) for method in (*several, {"nu": 5}, first_order)]
    some = ("two classes an agent", "4 classes permuted")
    cells += [Cell("fashion-mnist", shift, **method, validation_seeds=1) for shift in some for method in methods]
    return cells


def quick_plan() -> list[Cell]:
    return [Cell("tiny digits", HEADLINE, nu, seeds=2, validation_seeds=1) for nu in (0, 3)]


def study(cell: Cell, cache: Path | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tune a cell and score it: what was tried, and what was scored."""
    tried = tune(cell, cache)
    (best,) = tried[tried["chosen"]].itertuples()
    scored = score(cell, best.fine_tune_lr, best.meta_lr, cache)
    return _named(cell, tried), _named(cell, scored)


def _named(cell: Cell, frame: pd.DataFrame) -> pd.DataFrame:
    names = {"dataset": cell.dataset, "shift": cell.shift, "rounds": cell.start.rounds}
    names |= {"nu": cell.nu, "local_steps": cell.local_steps, "gradient": cell.gradient}
    return frame.assign(**names)[[*names, *frame]]


def processes(jobs: int) -> ProcessPoolExecutor:
    """Return an executor of new processes that compute with one thread each."""
    os.environ["GMFL_LITE_THREADS"] = "1"
    return ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))


def tables(cells: Sequence[Cell], cache: Path, jobs: int) -> dict[str, pd.DataFrame]:
    """Study every cell, `jobs` at once, and return the tables by name."""
    cache.mkdir(parents=True, exist_ok=True)
    with processes(jobs) as executor:
        try:
            found = list(tqdm(executor.map(partial(study, cache=cache), cells), total=len(cells), unit="cell"))
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
    tried, scored = (pd.concat(frames, ignore_index=True) for frames in zip(*found, strict=True))
    at_the_end = (scored["round"] == scored["rounds"]) | (scored["status"] != "completed")
    on_the_way = scored[(scored["group"] == "new") & (scored["fine_tune_steps"] == DEPLOYED)]
    curves = on_the_way.drop(columns=["restarts", "group", "fine_tune_steps", "worst_decile_accuracy"])
    return {"tuning": tried, "results": scored[at_the_end], "curves": curves}


def timed() -> list[Cell]:
    """Return the cells of the headline regimes: those whose cost in seconds is compared."""
    return [cell for cell in plan() if cell.shift == HEADLINE and not cell.rounds]


def timings(repeats: int = 3) -> pd.DataFrame:
    """Measure processor seconds per round of runs as long as those that are scored, without evaluations.

    A run of one round is subtracted from one of all, the least of some repeats of each, the methods taking turns.
    """
    cells = timed()
    seconds = {(cell, rounds): float("inf") for cell in cells for rounds in (1, cell.start.rounds)}
    for _ in range(repeats):
        for cell, rounds in seconds:
            run = cell.start.replace(fine_tune_lr=0.1, meta_lr=0.1, eval_steps=(0,), eval_every=10**6, rounds=rounds)
            federation = gl.build_federation(run)
            before = time.process_time()
            gl.run(run, federation=federation, progress=False)
            seconds[cell, rounds] = min(seconds[cell, rounds], time.process_time() - before)
    frames = []
    for cell in cells:
        rounds = cell.start.rounds
        per_round = (seconds[cell, rounds] - seconds[cell, 1]) / (rounds - 1)
        frames.append(_named(cell, pd.DataFrame({"seconds_per_round": [per_round]})))
    return pd.concat(frames)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small study, in a minute")
    parser.add_argument("--time", action="store_true", help="only measure what a round costs here")
    parser.add_argument("--jobs", type=int, default=usable_cores(), help="processes at once")
    parser.add_argument("--cache", type=Path, default=ROOT / "artefacts" / "evidence", help="finished runs")
    parser.add_argument("--out", type=Path, help="folder of the tables")
    asked = parser.parse_args()
    out = asked.out or ROOT / "studies" / ("evidence-quick" if asked.quick else "evidence")
    out.mkdir(parents=True, exist_ok=True)
    cells = quick_plan() if asked.quick else plan()
    if asked.time:
        with processes(1) as executor:
            written = {"timings": executor.submit(timings).result()}
    else:
        written = tables(cells, asked.cache, asked.jobs)
    for name, table in written.items():
        table.to_csv(out / f"{name}.csv", index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
