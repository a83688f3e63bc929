"""Does looking ahead pay? Every method at its own step sizes, on fresh federations, in many regimes.

python studies/few_shots.py few-shots|map [--only WORDS] [--jobs 2] [--dask ADDRESS] [--cache FOLDER] [--out FOLDER]

It writes the tables that studies/README.md describes, and a page that shows them, to studies/few-shots, or studies/map,
after every method that is done. What they have from the same rules stays, and a finished run is kept in the cache:
stopped at any moment, the same command continues from there and ends with the same tables. `--only` makes the cells
whose description holds these words.
"""

import argparse
import hashlib
import itertools
import json
import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache as kept_in_memory
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.stats
import torch
from torch import nn
from tqdm.auto import tqdm

import gmfl_lite as gl
from gmfl_lite import theory
from gmfl_lite.basics.over_seeds import percent_over_seeds
from gmfl_lite.engine.threads_and_memory import usable_cores

ROOT = Path(__file__).resolve().parent.parent
DEPLOYED = (1, 5, 10)
"""ν′, the fine-tuning steps after which agents are scored; step sizes are tuned for each of them."""
VALIDATION_SEEDS = (1000, 1001, 1002)
"""Of the federations that step sizes are tuned on."""
SCORED_SEEDS = tuple(range(3000, 3010))
"""Of the federations that are scored. Neither searches nor the rules of this page have seen them; all are dealt from
the same digits."""
STARTS = ((0.5, 0.25), (2.0, 0.02), (0.5, 2.0))
"""fine_tune_lr and meta_lr where searches begin: in the middle, little training, large local steps."""
STARTS_OF_SMALL = ((0.5, 0.25), (2.0, 1 / 64))
"""The same for the small model: powers of two apart, so that searches meet, and read what others have tried."""
WITHOUT_TRAINING = {1: 2.8, 5: 1.7, 10: 0.7, 100: 0.1}
"""Deployed steps -> about the best fine_tune_lr without any training: there all searches begin once more, with so small
steps that training moves w by less than one, so that no method ends below none at all."""
TRIALS = (80, 320)
"""How many step sizes a search tries at first, and at the very most where the best still lies at the edge."""
RESTARTS = 8
"""How often a scored run that diverges begins again, each time with meta_lr (and server_lr) over √2."""

FEDAVG, AHEAD = gl.methods["FedAvg"], gl.methods["Generalized (ν = 3)"]
METHODS = {
    **{f"FedAvg, τ = {tau}": FEDAVG | {"local_steps": tau} for tau in (1, 2, 5, 10, 20)},
    "FedAvg, τ = 5, own server step": FEDAVG | {"local_steps": 5},
    "FedProx, τ = 5": gl.methods["FedProx"] | {"local_steps": 5},
    "Reptile": gl.methods["Reptile"],
    **{f"ν = {nu}": AHEAD | {"nu": nu} for nu in (1, 3)},
    "no training": gl.methods["no training"],
    "local training alone": gl.methods["no training"],
}
"""Name -> settings; the server is the regime's. The last is scored after many steps, without others."""
ALONE, MANY = "local training alone", 100


def _seven_by_seven(root: Path, split: str, download: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return 8,000 images of Fashion-MNIST, 200 for each agent, every pixel the mean of 4×4."""
    data = gl.load_dataset("fashion-mnist", split=split)
    rows = torch.from_numpy(np.random.default_rng(0).permutation(len(data))[:8000])
    return nn.functional.avg_pool2d(data.x[rows], 4), data.y[rows]


@kept_in_memory
def _all_digits() -> gl.Dataset:
    return gl.load_dataset("digits")


def _of_unequal_contrast(seed: int, agent: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an agent's own 59 digits under names of its own, their contrast 0.15 to 1 times the images'."""
    digits, each = _all_digits(), 59
    order = np.random.default_rng([seed, 0]).permutation(len(digits))
    rows = torch.from_numpy(order[agent * each : (agent + 1) * each])
    own = np.random.default_rng([seed, 1, agent])
    names, contrast = torch.from_numpy(own.permutation(10)), np.exp(own.uniform(np.log(0.15), 0))
    return digits.x[rows] * float(contrast), names[digits.y[rows]]


def _digits(root: Path, split: str, download: bool) -> tuple[torch.Tensor, torch.Tensor]:
    return _all_digits().x, _all_digits().y


_TEN = tuple("0123456789")
for _source in (
    gl.data.DatasetSource(name="fashion-mnist-7x7", classes=_TEN, read=_seven_by_seven, small=False),
    gl.data.DatasetSource(
        name="digits-of-unequal-contrast", classes=_TEN, read=_digits, small=False, of_agent=_of_unequal_contrast
    ),
):
    if _source.name not in gl.data.DATASETS:  # a process that was started imports this once more
        gl.data.add_dataset(_source)

AGENTS = {
    "Fashion-MNIST": {"dataset": "fashion-mnist-7x7", "permuted_classes": 10, "n_new_agents": 20},
    "digits": {"dataset": "digits", "permuted_classes": 10},
    "unequal contrast": {"dataset": "digits-of-unequal-contrast"},
    "two digits each": {"dataset": "digits", "partition": "shards", "classes_per_agent": 2},
}
"""How agents differ; but for the last, every agent has its own ten names."""


@dataclass(frozen=True)
class Regime:
    """The circumstances in which methods are compared.

    shots : samples of each class that agents hold to train on; None is all.
    rounds, server : as in Experiment.
    agents : of AGENTS.
    small : whether the model is a hidden layer of 32 units, trained in batches of ten, and half of the samples are
        scored; else an MLP of 80 and 60 units, trained on all samples at once, of which a quarter is scored.
    """

    shots: int | None = 1
    rounds: int = 300
    server: str = "average"
    agents: str = "digits"
    small: bool = False

    @property
    def experiment(self) -> gl.Experiment:
        how = {"batch_size": 10, "test_fraction": 0.5} if self.small else {"batch_size": None}
        return gl.Experiment(
            partition="iid", n_agents=20, n_new_agents=10, agents_per_round=5, model="mlp", local_steps=1,
            shots=self.shots, rounds=self.rounds, server=self.server, device="cpu", precision="float64",
            execution="vectorized", **how,
        ).replace(**AGENTS[self.agents])  # fmt: skip

    def module(self, seed: int = 0) -> nn.Module | None:
        """Return the initial model where it is not the experiment's own; searches begin with that of seed 0."""
        if not self.small:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inputs = 49 if self.agents == "Fashion-MNIST" else 64
            return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 32), nn.ELU(), nn.Linear(32, 10)).double()


@dataclass(frozen=True)
class Cell:
    """A method in a regime: where the searches for its step sizes begin, and what is searched for."""

    regime: Regime
    method: str

    @property
    def trains(self) -> bool:
        return METHODS[self.method] != gl.methods["no training"]

    def starts(self, deployed: int) -> list[gl.Experiment]:
        run = self.regime.experiment.replace(**METHODS[self.method])
        run = run.replace(eval_every=run.rounds)
        if not self.trains:
            return [run.replace(fine_tune_lr=fine_tune_lr) for fine_tune_lr in dict.fromkeys(lr for lr, _ in STARTS)]
        run = run.replace(server=self.regime.server)
        least = 0.6 / (run.local_steps * run.rounds)
        adams = (0.01, 0.001, 0.03, 0.003 / run.rounds)
        starts = (*STARTS, (WITHOUT_TRAINING[deployed], least))
        if self.regime.small:
            starts, adams = STARTS_OF_SMALL, (1 / 64, 1 / 512)
        found = []
        for (fine_tune_lr, meta_lr), adam in zip(starts, adams, strict=True):
            averages = self.regime.server == "average"
            meta_lr = meta_lr if "meta_lr" in self.tuned else 1.0  # Adam decides how far w moves
            found.append(run.replace(fine_tune_lr=fine_tune_lr, meta_lr=meta_lr, server_lr=1.0 if averages else adam))
        return found

    @property
    def tuned(self) -> tuple[str, ...]:
        averages = self.regime.server == "average"
        if not self.trains:
            return ("fine_tune_lr",)
        of_agents = ["meta_lr"] if averages or METHODS[self.method].get("local_steps", 1) > 1 else []
        of_the_server = [] if averages and "own server step" not in self.method else ["server_lr"]
        return ("fine_tune_lr", *of_agents, *of_the_server)

    @property
    def deployed(self) -> tuple[int, ...]:
        return (MANY,) if self.method == ALONE else DEPLOYED

    @property
    def gradients(self) -> float:
        """What a picked agent computes in a round."""
        run = self.starts(DEPLOYED[0])[0]
        return float(run.local_steps * theory.meta_gradient_cost(run.nu, run.gradient)) if self.trains else 0.0

    @property
    def key(self) -> str:
        """What tells results of these rules from those of others; the library's version is not among them."""
        starts = [start.to_dict() for steps in self.deployed for start in self.starts(steps)]
        rules = [starts, self.tuned, self.deployed, VALIDATION_SEEDS, SCORED_SEEDS, TRIALS, RESTARTS]
        if (module := self.regime.module()) is not None:
            rules.append(repr(module))
        return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def names(self) -> dict[str, object]:
        """The columns that tell a cell from the others."""
        regime = self.regime
        where = {"agents": regime.agents, "shots": str(regime.shots or "all"), "rounds": regime.rounds}
        return {**where, "server": regime.server, "method": self.method}

    def named(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(**self.names)[[*self.names, *frame]]


A_FEW = (*(f"FedAvg, τ = {tau}" for tau in (1, 2, 5, 10, 20)), "ν = 1", "ν = 3", "no training")
"""Those that have been tried in every regime of the larger model."""
OF_SMALL = (*(f"FedAvg, τ = {tau}" for tau in (1, 5, 10)), "FedProx, τ = 5", "Reptile", "ν = 1", "ν = 3", "no training")
"""Those that have been tried in every regime of the small model where the server averages."""
MAP = {
    "digits": ((1, 30), (1, 300), (None, 30)),
    "Fashion-MNIST": ((1, 30), (1, 300), (5, 30), (5, 300), (None, 30), (None, 300)),
    "two digits each": ((None, 30),),
}
"""Whose agents the small model has been tried on, with how many shots and rounds; those of unequal contrast wait."""
PLANS = {
    "few-shots": {
        Regime(): (*A_FEW, "FedProx, τ = 5"),
        Regime(rounds=30): tuple(METHODS),
        Regime(shots=None, rounds=30): A_FEW,
    },
    "map": {
        Regime(shots, rounds, agents=agents, small=True): OF_SMALL
        for agents, several in MAP.items()
        for shots, rounds in several
    },
}
"""Which methods are tried in which regimes of a study; those of METHODS that are not here have not been tried there."""


def plan(name: str) -> list[Cell]:
    """Return what a study's committed tables hold."""
    return [Cell(regime, method) for regime, methods in PLANS[name].items() for method in methods]


def comparisons(name: str) -> int:
    """Return how many leads of a study may be looked at, which together hold with 95 %: those of one regime more."""
    return 2 * len(DEPLOYED) * (len(PLANS[name]) + 1)


def study(cell: Cell, cache: Path | None) -> dict[str, pd.DataFrame]:
    """Tune a method for each number of deployed steps and score it: what was tried, found and scored."""
    tried, found, tuned = [], [], {}
    for steps in cell.deployed:
        # The small model's searches for more steps begin where the last one ended: few step sizes are new.
        starts = list(tuned.values())[-1:] if cell.regime.small else []
        searches = [search(cell, start, steps, cache) for start in starts or cell.starts(steps)]
        best = max(searches, key=_validated)  # the first of equals
        tried.append(pd.concat(one.table.assign(deployed=steps, start=number) for number, one in enumerate(searches)))
        row = {"deployed": steps, "trials": len(tried[-1]), "at_edge": best.at_edge}
        row |= {name: getattr(best.best, name) for name in ("fine_tune_lr", "meta_lr", "server_lr")}
        accuracy, less = _validated(best)
        row |= {"validation_accuracy": accuracy, "validation_loss": -less, "gradients": cell.gradients, "key": cell.key}
        found.append(row)
        tuned[steps] = best.best
    results = {"tuning": pd.concat(tried), "cells": pd.DataFrame(found), "results": score(tuned, cache, cell.regime)}
    return {name: cell.named(frame) for name, frame in results.items()}


def search(cell: Cell, start: gl.Experiment, steps: int, cache: Path | None) -> gl.Tuned:
    """Return what a search from there finds; it is allowed more trials as long as the best lies at their edge."""
    trials, most = TRIALS
    while True:
        how = {"settings": cell.tuned, "steps": steps, "validation_seeds": VALIDATION_SEEDS, "trials": trials}
        tuned = gl.tune(start, **how, model=cell.regime.module(), cache=cache, progress=False)
        if not tuned.at_edge or len(tuned.table) < trials or trials >= most:
            return tuned
        trials *= 2


def _validated(tuned: gl.Tuned) -> tuple[float, float]:
    """Return the best accuracy and, as it may be reached twice, its loss, less being better."""
    best = tuned.table.dropna().round(4).sort_values(["accuracy", "loss"], ascending=[False, True]).iloc[0]
    return best["accuracy"], -best["loss"]


def score(tuned: dict[int, gl.Experiment], cache: Path | None, regime: Regime) -> pd.DataFrame:
    """Run what was tuned for each number of deployed steps on SCORED_SEEDS and return the last evaluations.

    The small model begins with weights of each seed's own. A run that diverges, which training itself shows, begins
    again with smaller steps.
    """
    if set(SCORED_SEEDS) & {*VALIDATION_SEEDS, *(best.seed for best in tuned.values())}:
        raise ValueError(f"SCORED_SEEDS = {SCORED_SEEDS} must be others than those of the searches")
    found: dict[tuple[int, int], pd.DataFrame] = {}
    for seeds in [SCORED_SEEDS] if regime.module() is None else [[seed] for seed in SCORED_SEEDS]:
        for restarts in range(RESTARTS + 1):
            smaller, runs = 2 ** (-restarts / 2), {}
            for seed, steps in [each for each in itertools.product(seeds, tuned) if each not in found]:
                best = tuned[steps]
                server_lr = best.server_lr if best.server == "average" else best.server_lr * smaller
                sizes = {"meta_lr": best.meta_lr * smaller, "server_lr": server_lr}
                runs[seed, steps] = best.replace(seed=seed, eval_steps=tuple(tuned), **sizes)
            for each, rows in zip(runs, _ended(list(runs.values()), regime.module(seeds[0]), cache), strict=True):
                if rows["status"].iloc[0] == "completed":
                    found[each] = rows.assign(seed=each[0], restarts=restarts)
                elif rows["status"].iloc[0] != "diverged" or restarts == RESTARTS:
                    raise RuntimeError(f"{runs[each]}: {rows['status'].iloc[0]}: {rows['message'].iloc[0]}")
    at_its_steps = [found[seed, steps].query(f"fine_tune_steps == {steps}") for steps in tuned for seed in SCORED_SEEDS]
    columns = ["fine_tune_steps", "seed", "restarts", "group", "loss", "accuracy", "worst_decile_accuracy"]
    return pd.concat(at_its_steps, ignore_index=True)[columns].rename(columns={"fine_tune_steps": "deployed"})


def _ended(runs: list[gl.Experiment], module: nn.Module | None, cache: Path | None) -> list[pd.DataFrame]:
    """Return each run's rows."""
    rows: dict[int, pd.DataFrame] = {}
    if runs:
        gl.sweep(runs, model=module, cache=cache, on_point=rows.__setitem__, progress=False)
    return [rows[number] for number in range(len(runs))]


class Tables:
    """The tables in a folder: what they have from these rules stays, and each cell is written when it is done.

    Of those from which it continues, cells.csv is written last and says which rules its rows are from: stopped in
    between, the cell is made again. leads.csv follows from the others.
    """

    NAMES = ("tuning", "results", "cells")

    def __init__(self, folder: Path, cells: Iterable[Cell], looks: int) -> None:
        self.folder, self.cells, self.looks = folder, list(cells), looks
        self.done: dict[Cell, dict[str, pd.DataFrame]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if not all((folder / f"{name}.csv").exists() for name in self.NAMES):
            return
        kept = self.read()
        for cell in self.cells:
            own = {
                name: rows[(rows[[*cell.names]] == pd.Series(cell.names)).all(axis=1)] for name, rows in kept.items()
            }
            if set(own["cells"]["key"]) == {cell.key} and not any(rows.empty for rows in own.values()):
                self.done[cell] = own

    @property
    def missing(self) -> list[Cell]:
        return [cell for cell in self.cells if cell not in self.done]

    def add(self, cell: Cell, made: dict[str, pd.DataFrame]) -> None:
        self.done[cell] = made
        self.save()

    def save(self) -> None:
        for name in self.NAMES:
            self._write(name, self.whole(name))
        kept = self.read()  # rounded as they are, so that leads follow from what anybody has
        self._write("leads", leads(kept["cells"], kept["results"], self.looks))
        (self.folder / "README.md").write_text(self.page, encoding="utf-8")

    def read(self) -> dict[str, pd.DataFrame]:
        kinds = {"key": str, "shots": str}
        return {name: pd.read_csv(self.folder / f"{name}.csv", dtype=kinds) for name in self.NAMES}

    def _write(self, name: str, table: pd.DataFrame) -> None:
        half = self.folder / f"{name}.csv.part"
        table.to_csv(half, index=False, float_format="%.4g")
        half.replace(self.folder / f"{name}.csv")

    @property
    def page(self) -> str:
        """What the tables say, as Markdown."""
        kept = self.read()
        found = leads(kept["cells"], kept["results"], self.looks).round(1)
        return "\n\n".join(
            (
                f"# Tables of {self.folder.name}",
                "[What they are](../README.md). Accuracy of new agents in percent, with a 95 % bootstrap interval for "
                "each method alone:",
                _markdown(accuracies(kept["results"]).reset_index()),
                "Who leads, in points; an interval that leaves out zero is a lead:",
                _markdown(found) + "\n",
            )
        )

    def whole(self, name: str) -> pd.DataFrame:
        """Return a table with all that is done, in the order of the plan."""
        return pd.concat([self.done[cell][name] for cell in self.cells if cell in self.done], ignore_index=True)


def make(tables: Tables, executor: Executor, cache: Path, only: str = "") -> None:
    """Study every cell that the tables do not have yet; those that fail are named when the others are done."""
    begun = {executor.submit(partial(study, cache=cache), cell): cell for cell in tables.missing if only in str(cell)}
    problems = []
    try:
        for future in tqdm(as_completed(begun), total=len(begun), unit="cell"):
            if (error := future.exception()) is None:
                tables.add(begun[future], future.result())
            else:
                error.add_note(str(begun[future]))
                problems.append(error)
    finally:
        for future in begun:
            future.cancel()
    if tables.done:  # what follows from the others is as these rules have it, even if nothing was missing
        tables.save()
    if problems:
        raise BaseExceptionGroup("cells that failed", problems)


REGIME = ["agents", "shots", "rounds", "server"]


def accuracies(results: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of new agents in percent, with its 95 % interval over federations: a row for each method."""
    new = results[results["group"] == "new"]
    said = percent_over_seeds(new, [*REGIME, "method", "deployed"])
    return said.unstack(sort=False).fillna("").rename(columns=lambda steps: f"{steps} steps" if steps > 1 else "1 step")


def leads(cells: pd.DataFrame, results: pd.DataFrame, looks: int) -> pd.DataFrame:
    """Compare what looks ahead with all that does not, and looking further than one step with ν = 1, in points.

    To lead, a family's best on VALIDATION_SEEDS must lead every method of the other family on SCORED_SEEDS, not only
    the best one by validation. A method may stop after fewer rounds than it could have.

    Columns: `lead` of the one over the other, in points, the smallest over the other family; `low` to `high`, an
    interval for the difference of the two families' best. Both ends are Student's, for the mean of differences of new
    agents' accuracies, federation by federation, and so wide that as many as `looks` hold together with 95 %.
    """
    new = results[results["group"] == "new"]
    scores = 100 * new.set_index([*REGIME, "deployed", "method", "seed"])["accuracy"].sort_index()
    rows, there = [], cells[cells["deployed"].isin(DEPLOYED)]
    ahead, of_one = there["method"].str.startswith("ν = "), there["method"].str.startswith("ν = 1")
    for against, families in {"no looking ahead": (ahead, ~ahead), "ν = 1": (ahead & ~of_one, of_one)}.items():
        for where in there[[*REGIME, "deployed"]].drop_duplicates().itertuples(index=False):
            same = ("agents", "shots", "deployed")
            possible = (there[[*same]] == [getattr(where, name) for name in same]).all(axis=1)
            possible &= (there["rounds"] <= where.rounds) & there["server"].isin([where.server, "average"])
            one, other = (_best_last(there[possible & family], where.rounds, scores) for family in families)
            if one and other:
                (low, lead, over), (least, behind, under) = _over(one, other, looks), _over(other, one, looks)
                row = [under, list(other)[-1], -behind] if least > 0 else [list(one)[-1], over, lead]
                rows.append([*where, against, *row, low, -least])
    return pd.DataFrame(rows, columns=[*REGIME, "deployed", "against", "one", "other", "lead", "low", "high"])


def _best_last(cells: pd.DataFrame, rounds: int, scores: pd.Series) -> dict[str, pd.Series]:
    """Return the scores of methods by name, of that which validation found best last."""
    found = {}
    for row in cells.sort_values(["validation_accuracy", "validation_loss"], ascending=[True, False]).itertuples():
        fewer = f", {row.rounds} rounds" if row.rounds < rounds else ""
        found[row.method + fewer] = scores.loc[row.agents, row.shots, row.rounds, row.server, row.deployed, row.method]
    return found


def _over(one: dict[str, pd.Series], other: dict[str, pd.Series], looks: int) -> tuple[float, float, str]:
    """Return by how much the last of one leads all others, at least and in the mean, and the one it leads least."""
    best, ends = list(one.values())[-1], []
    for name, scores in other.items():
        differences = best - scores
        half = differences.sem() * scipy.stats.t.ppf(1 - 0.025 / looks, len(differences) - 1)
        ends.append((differences.mean(), name, differences.mean() - half))
    mean, name, _ = min(ends)
    return min(low for _, _, low in ends), mean, name


def _markdown(frame: pd.DataFrame) -> str:
    lines = [list(frame), ["---"] * frame.shape[1], *frame.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", choices=PLANS, help="few-shots: an MLP on digits; map: a small model in many regimes")
    parser.add_argument("--only", default="", help="the cells whose description holds these words")
    parser.add_argument("--jobs", type=int, default=usable_cores(), help="processes at once")
    parser.add_argument("--dask", help="address of a Dask scheduler, whose workers compute instead")
    parser.add_argument("--cache", type=Path, help="finished runs; artefacts/STUDY")
    parser.add_argument("--out", type=Path, help="folder of the tables; studies/STUDY")
    asked = parser.parse_args()
    cache, out = asked.cache or ROOT / "artefacts" / asked.study, asked.out or ROOT / "studies" / asked.study
    tables = Tables(out, plan(asked.study), comparisons(asked.study))
    cache.mkdir(parents=True, exist_ok=True)
    if asked.dask:
        from distributed import Client

        with Client(asked.dask) as client:
            make(tables, client.get_executor(), cache, asked.only)
        return
    os.environ["GMFL_LITE_THREADS"] = "1"
    with ProcessPoolExecutor(asked.jobs, mp_context=multiprocessing.get_context("spawn")) as executor:
        make(tables, executor, cache, asked.only)


if __name__ == "__main__":
    main()
