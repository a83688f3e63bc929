"""What notebook 09 and its key say in numbers is what the tables say; every number of the prose is looked at."""

import re
from functools import cache

import nbformat
import pandas as pd
from clean_machine import ROOT

from gmfl_lite.readers import read_study

NOTEBOOK = nbformat.read(ROOT / "notebooks" / "09-evidence.ipynb", as_version=4)
PROSE = "\n\n".join(cell.source for cell in NOTEBOOK.cells if cell.cell_type == "markdown")
KEY = dict(
    re.findall(r"^\| 09 \| (.*?) \| (.*?) \|$", (ROOT / "notebooks" / "for-teachers.md").read_text("utf-8"), re.M)
)
FEDAVGS = [f"FedAvg, τ = {tau}" for tau in (1, 2, 5, 10, 20)]


@cache
def few() -> dict[str, pd.DataFrame]:
    tables = {name: table for name, table in read_study("few-shots").items() if "shots" in table}
    return {name: table.assign(shots=table["shots"].astype(str)) for name, table in tables.items()}


def percent(method: str, deployed: int, shots: str = "1", rounds: int = 300) -> int:
    """Return a method's mean accuracy of new agents, in percent, over the scored federations."""
    rows = few()["results"]
    rows = rows[(rows["shots"] == shots) & (rows["rounds"] == rounds) & (rows["group"] == "new")]
    rows = rows[(rows["method"] == method) & (rows["deployed"] == deployed)]
    assert rows["seed"].nunique() == 10
    return round(100 * rows["accuracy"].mean())


@cache
def wide() -> pd.DataFrame:
    leads = read_study("map")["leads"]
    return leads.assign(shots=leads["shots"].astype(str))


def lead(
    deployed: int, shots: str = "1", rounds: int = 300, against: str = "no looking ahead", of: str = ""
) -> pd.Series:
    """Of the first study, or of these agents of the map."""
    rows = wide()[wide()["agents"] == of] if of else few()["leads"]
    rows = rows[(rows["shots"] == shots) & (rows["rounds"] == rounds) & (rows["deployed"] == deployed)]
    (row,) = rows[rows["against"] == against].itertuples()
    return row


@cache
def many() -> pd.Series:
    """Return mean accuracies of new agents after five steps: of (dataset, shift, rounds, ν, τ), in percent."""
    rows = read_study("evidence")["results"]
    rows = rows[(rows["group"] == "new") & (rows["fine_tune_steps"] == 5) & (rows["gradient"] == "exact")]
    rows = rows[rows["status"] == "completed"]
    return 100 * rows.groupby(["dataset", "shift", "rounds", "nu", "local_steps"])["accuracy"].mean()


def claims() -> list[str]:
    """The sentences with numbers, as the tables have them; what they say in words is asserted."""
    one, five, ten = ({m: percent(m, d) for m in (*FEDAVGS, "ν = 1", "ν = 3", "no training")} for d in (1, 5, 10))
    best = {d: max(each[m] for m in FEDAVGS) for d, each in ((1, one), (5, five), (10, ten))}
    rows = many().unstack(["nu", "local_steps"])
    highest = rows[0, 5] >= rows[[(0, 1), (1, 1), (3, 1)]].max(axis=1)
    cells = few()["cells"]
    fedavg = cells[cells["method"].isin(FEDAVGS) & (cells["shots"] == "1") & (cells["rounds"] == 300)]
    moves = fedavg["meta_lr"] * fedavg["rounds"] * fedavg["method"].str.extract(r"(\d+)")[0].astype(int)
    assert moves.max() < 4
    digits, fashion = (
        many()[data, "10 classes permuted", rounds] for data, rounds in (("digits", 30), ("fashion-mnist", 40))
    )
    return [
        f"After one step ν = 1 has {one['ν = 1']} % and ν = 3 {one['ν = 3']} %; "
        f"the best FedAvg has {best[1]} %, and no training at all {one['no training']} %.",
        f"After five steps it is {five['ν = 3']} % for ν = 3, {best[5]} % for the best FedAvg and "
        f"{five['no training']} % without training; after ten {ten['ν = 3']}, {best[10]} and {ten['no training']} %.",
        f"from {digits[0, 1]:.0f} % with one local step to {digits[0, 5]:.0f} % with five; ν = 3 goes from "
        f"{digits[3, 1]:.0f} to {digits[3, 5]:.0f} %",
        f"(Fashion-MNIST: FedAvg from {fashion[0, 1]:.0f} to {fashion[0, 5]:.0f} %, ν = 3 from {fashion[3, 1]:.0f} to "
        f"{fashion[3, 5]:.0f} %)",
        *on_the_way(),
        *of_the_map(),
        f"FedAvg with five local steps has the highest mean in {highest.sum()} of {len(highest)} rows",
    ]


def on_the_way() -> list[str]:
    """What notebook 09 says of FedAvg's rounds, and of the same comparison by other people's code."""
    way = few()["alignment"].groupby(["shots", "rounds"])[["accuracy", "alignment"]].mean()
    assert set(few()["alignment"].groupby(["shots", "rounds"])["seed"].nunique()) == {10}
    (first, *_, late, last), (start, *_, end) = (list(way.loc[shots].itertuples(index=False)) for shots in ("1", "all"))
    assert list(way.loc["1"].index) == [0, 10, 30, 100, 300]
    theirs = read_study("few-shots")["confirmed"]
    assert (theirs["by_others"] == theirs["accuracy"]).all()
    means = 100 * theirs.groupby("method")["by_others"].mean()
    assert list(means.index) == ["FedAvg, τ = 5", "ν = 1", "ν = 3"]
    return [
        f"goes from {100 * first.accuracy:.0f} % to {100 * late.accuracy:.0f} % after 100 rounds and back to "
        f"{100 * last.accuracy:.0f} % after 300, while the alignment falls from {first.alignment:.2f} to "
        f"{last.alignment:.2f}.",
        f"With all images it goes from {100 * start.accuracy:.0f} % to {100 * end.accuracy:.0f} %, "
        f"and the alignment is still {end.alignment:.2f}.",
        "FedAvg has {:.0f} %, ν = 1 has {:.0f} % and ν = 3 has {:.0f} %".format(*means),
    ]


def of_the_map() -> list[str]:
    """What notebook 09 says of its map, whose rows have the most rounds that were tried."""
    larger, smaller, fashion = lead(1), lead(1, of="digits"), lead(1, of="Fashion-MNIST")
    assert (larger.other, smaller.other, fashion.other) == (
        "FedProx, τ = 5, 30 rounds",
        "Reptile",
        "FedProx, τ = 5, 30 rounds",
    )
    assert min(larger.low, smaller.low) > 0 > fashion.low
    assert fashion.high > 0
    further = [lead(1, against="ν = 1", of=agents) for agents in ("", "digits", "Fashion-MNIST")]
    assert all(each.low > 0 for each in further)
    for agents in ("", "digits", "Fashion-MNIST"):
        assert all(lead(steps, of=agents).low < 0 < lead(steps, of=agents).high for steps in (5, 10))
        assert all(lead(steps, against="ν = 1", of=agents).lead < 4 for steps in (5, 10))
    many_digits = [lead(steps, "all", 30, of=agents) for steps in (1, 10) for agents in ("", "digits")]
    assert all(each.high < 0 and each.other.startswith("FedAvg") for each in many_digits)
    five, ten = lead(1, "5", of="Fashion-MNIST"), lead(10, "all", of="Fashion-MNIST")
    assert max(five.high, ten.high) < 0
    assert (five.other, ten.other) == ("FedProx, τ = 5", "FedAvg, τ = 10")
    two = [lead(steps, "all", 30, of="two digits each") for steps in (1, 5, 10)]
    assert all(each.low < 0 < each.high for each in two)
    one, other, one_late, other_late = (-each.lead for each in many_digits)
    return [
        f"looking ahead leads by {larger.lead:.0f} points with the larger model and by {smaller.lead:.0f} points",
        f"{fashion.lead:.0f} points over FedProx are not clear.",
        f"ν = 3 leads ν = 1 by {further[0].lead:.0f}, {further[1].lead:.0f} and {further[2].lead:.0f} points.",
        f"FedAvg leads on digits, by {one:.0f} and {other:.0f} points after one step and by {one_late:.0f} and "
        f"{other_late:.0f} points after ten; on Fashion-MNIST FedProx leads by {-five.lead:.0f} points with five "
        f"images, and FedAvg by {-ten.lead:.0f} points after ten steps with all.",
    ]


def test_the_notebook_says_what_the_tables_say():
    for claim in claims():
        assert claim in PROSE


def test_no_other_number_is_claimed():
    rest = PROSE
    for claim in claims():
        rest = rest.replace(claim, "")
    assert not re.findall(r"\d+(?:\.\d+)? (?:%|points)", rest)


def test_the_key_says_what_the_tables_say():
    best = max(percent(method, 1) for method in FEDAVGS)
    answers = iter(KEY.values())
    assert next(answers) == (
        f"That of ν = 3, with {percent('ν = 3', 1)} %; ν = 1 has {percent('ν = 1', 1)} %. "
        f"The best FedAvg has {best} %, no more than no training."
    )
    assert best == percent("no training", 1)
    way = few()["alignment"].query("shots == '1'").groupby("rounds")[["accuracy", "alignment"]].mean()
    late, last = way.loc[100], way.loc[300]
    fall = f"from {100 * late['accuracy']:.0f} to {100 * last['accuracy']:.0f} %, "
    assert f"{fall}and the alignment to {last['alignment']:.2f}." in next(answers)
    fashion = lead(1, of="Fashion-MNIST")
    assert f"it is {fashion.lead:.0f} points instead of {lead(1).lead:.0f}," in next(answers)
    last = next(answers)
    assert f"{many()['digits', '10 classes permuted', 30, 0, 5]:.0f} % against" in last
    assert f"against {many()['digits', '10 classes permuted', 30, 3, 5]:.0f} %." in last
    assert not list(answers)


def test_readme_says_what_the_tables_say():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    best, three = max(percent(method, 1) for method in FEDAVGS), percent("ν = 3", 1)
    assert f"FedAvg's best has {best} % after it, no more than no training, and ν = 3 has {three} %." in readme
    assert best == percent("no training", 1)
