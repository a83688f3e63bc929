"""What the notebooks say about methods holds for seeds 0 to 4: their own code, run with each of them."""

from itertools import takewhile

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from clean_machine import ROOT

import gmfl_lite as gl

SEEDS = range(5)
OMITTED = ("%pip", "gl.explain.", "gl.exercises.", "landscapes(", "distances", "def seconds_a_round")
"""Cells that install, show, ask or take the time; no statement below rests on one."""

pytestmark = pytest.mark.slow


def ran(number: str, seed: int, until: str = "\0", **parameters) -> dict:
    """Return the names that a notebook's code, up to the cell that holds `until`, leaves behind with another seed."""
    (path,) = (ROOT / "notebooks").glob(f"{number}-*.ipynb")
    names: dict = {}
    for cell in takewhile(lambda cell: until not in cell.source, nbformat.read(path, as_version=4).cells):
        if cell.cell_type == "code" and not any(what in cell.source for what in OMITTED):
            exec(cell.source, names)
            plt.close("all")
            if "parameters" in cell.metadata.get("tags", []):
                names.update(parameters, seed=seed)
    return names


@pytest.mark.parametrize("seed", SEEDS)
def test_start_here(seed):
    names = ran("00", seed)
    table = 100 * names["table"]
    new, trained = (table.xs(group, level="agents") for group in ("new", "trained"))
    fedavg, one, three, fedavg_small, fedavg_5, three_5, three_large = new.index
    assert (new.loc[[one, three], 5] > new.loc[fedavg, 5] + 20).all(), "they leave FedAvg far behind"
    assert new.loc[three, 5] > new.loc[one, 5], "the order is clear"
    half = names["results"][three].history.query("group == 'new' and fine_tune_steps == 5 and round == 75")
    assert abs(100 * half["accuracy"].item() - new.loc[one, 5]) < 5, "after half of the rounds about where ν = 1 ends"
    better = new.loc[[one, three], 5] - trained.loc[[one, three], 5]
    assert better.between(-8.5, 4.5).all(), "from four points better to eight worse"
    assert (table.loc[[fedavg, one, three], 0] < 21).all(), "before fine-tuning little better than guessing"
    rise = new.loc[three] - new.loc[three, 0]
    assert rise[3] > 0.8 * rise.max(), "has risen by the third step"
    assert new.loc[three, [5, 10]].min() > new.loc[three, 3], "and stays up"
    at_five = {way: result.agents.query("fine_tune_steps == 5") for way, result in names["results"].items()}
    left, right = (at_five[way].set_index("agent")["accuracy"] for way in (fedavg, three))
    assert (right > left).mean() > 0.95, "looking ahead serves nearly every agent better"
    assert new.loc[fedavg_5, [5, 10]].sub(new.loc[three, [5, 10]]).between(-3, 4).all(), "level, or a few points ahead"
    large = names["several"].replace(nu=3, fine_tune_lr=0.6, meta_lr=0.6)
    assert gl.run(large, progress=False).status == "diverged", "as at τ = 5 it diverges"
    assert abs(new.loc[fedavg_5, 5] - new.loc[three_5, 5]) < 10, "nobody by ten points"
    assert new.loc[fedavg_5, 5] - new.loc[fedavg_small, 5] > 10, "steps twice as large give FedAvg ten points or more"
    assert (new.loc[three_large, 5] > new.drop(three_large)[5]).all(), "best of all"


@pytest.mark.parametrize("seed", SEEDS)
def test_one_model_for_all(seed):
    names = ran("02", seed)
    alone = 100 * pd.DataFrame(names["rows"]).T
    of_alike, of_mixed, of_renamed = (alone.loc[kind] for kind in alone.index)
    assert of_alike.is_monotonic_increasing, "together is better than alone, five local steps better than one"
    assert of_mixed["alone"] > of_mixed.iloc[1] + 5, "alone is ahead of central training"
    assert -1 < of_mixed["alone"] - of_mixed.iloc[2] < 5, "and about level with FedAvg, or a few points ahead"
    assert (of_renamed.iloc[1:] < 25).all(), "little better than a guess"
    assert of_renamed["alone"] > 70, "an agent alone far better"
    alike, one_class = (names["ends"][kind] for kind in ("IID", "one class per agent"))
    assert alike.max() - alike.min() < 5, "the three end within a few points"
    assert one_class.is_monotonic_decreasing, "the same steps are worth less and less"
    assert one_class["FedAvg, τ = 25"] < 0.6 * one_class["FedAvg, τ = 1"], "with τ = 25 half of the accuracy is lost"
    left = names["last"]
    assert (left.loc[0] <= 21).all(), "before fine-tuning hardly better than a guess"
    one, five, many = (100 * result.table().loc["new", 10] for result in names["permuted"].values())  # not rounded
    work = {result.experiment.rounds * result.experiment.local_steps for result in names["permuted"].values()}
    assert len(work) == 1, "the same work"
    assert five > one + 25, "far ahead of τ = 1"
    assert -0.5 < many - five < 11, "25 are level with 5, or up to 11 points ahead"
    tried = names["with_local_steps"](names["renamed"], equal_work=False)
    one, five, many = (100 * result.table().loc["new", 10] for result in tried.values())
    assert many - one > 40, "the last Try: with ten rounds each, τ = 25 gains most"
    assert many - 10 > max(one, five), "by far"


@pytest.mark.parametrize("seed", SEEDS)
def test_when_nu_helps(seed):
    names = ran("05", seed)
    penalty = names["penalty"]
    assert np.allclose(penalty.min(), np.diag(penalty)), "in every column the lowest value is on the diagonal"
    assert 1.055 < penalty.loc[0, 50] < 128.5, "1.1 to 128 times the best"
    assert 1.005 < penalty.loc[50, 0] < 6.75, "1.01 to 6.7 times"
    assert np.allclose(names["truncated"], names["fewer"], atol=1e-6), "first-order training goes half as far"
    moved = pd.DataFrame(names["rows"])
    assert moved["different curvatures"].iloc[1:].min() > 0.01
    assert moved["equal curvatures"].max() < 1e-6, "with equal curvatures FedAvg is already the best start"
    shared, own = names["left"].values()
    assert max(shared, key=shared.get) == 10, "with FedAvg's β, the largest ν seems to learn least"
    assert min(own, key=own.get) == 10, "with its own β, it has the smallest part left"


@pytest.mark.parametrize("seed", SEEDS)
def test_sinusoids(seed):
    names = ran("12", seed, until="one_shot = gl.Experiment(")
    error = pd.DataFrame({name: result.table().loc["new"] for name, result in names["curves"].items()}).T
    untrained, fedavg, fedavg_10, one, five = (error.loc[name] for name in error.index)
    assert error[0].max() < 2 * error[0].min(), "before fine-tuning all are about equally bad"
    assert untrained.is_monotonic_increasing, "without training, fine-tuning does harm"
    assert (one[[5, 10]] < 0.5 * fedavg[[5, 10]]).all(), "less than half"
    assert (five[[5, 10]] < 0.5 * fedavg[[5, 10]]).all() == (seed != 4), "but for seed 4"
    behind = fedavg_10[10] / error.loc[[one.name, five.name], 10] - 1
    assert behind.between(0.015, 0.745).all(), "behind both, by 2 to 74 %"
    assert (fedavg_10[[5, 10]] < 0.7 * fedavg[[5, 10]]).all(), "comes near to both"
    assert seed > 1 or (one[5] < five[5]) == (seed == 0), "is ahead of ν = 5 after five steps: with seed 1, too?"


def test_one_shot():
    """The notebook has three seeds and gives their means, this has five."""
    table = ran("12", 0, seeds=len(SEEDS))["new"]
    assert set(table["seed"]) == set(SEEDS)
    percent = 100 * table.pivot_table("accuracy", "method", "fine_tune_steps")
    ahead, fedavg = percent.loc["ν = 3, apart"], percent.loc["FedAvg, τ = 5, apart"]
    assert (percent[0] < 15).all(), "before fine-tuning everybody guesses"
    assert (ahead - fedavg)[[1, 5]].min() > 10, "looking ahead leads by more than ten points"
    assert (percent.loc["FedAvg, τ = 5, on both halves"] < fedavg)[[1, 5]].all(), "less on both halves"
    assert percent.loc["ν = 3", 5] - percent.loc["no training", 5] < 5, "it looked at the wrong images"
