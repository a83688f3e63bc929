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


def lead(deployed: int, shots: str = "1", rounds: int = 300, against: str = "no looking ahead") -> pd.Series:
    rows = few()["leads"]
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
    early, late = lead(1, rounds=30), lead(1)
    assert early.other == "FedProx, τ = 5"
    assert -0.5 < early.low < 0 < early.high
    assert late.low > 0
    assert late.other == "FedProx, τ = 5, 30 rounds"
    assert all(lead(d, rounds=r).low < 0 < lead(d, rounds=r).high for d in (5, 10) for r in (30, 300))
    further = {deployed: lead(deployed, against="ν = 1") for deployed in (1, 5, 10)}
    assert further[1].low > 0
    assert further[10].low > 0
    assert further[5].low < 0 < further[5].high
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
        f"looking ahead leads by {late.lead:.0f} points after 300 rounds. The hardest rival is FedProx",
        f"After 30 rounds its {early.lead:.0f} points over FedProx just fail to be clear.",
        f"from {digits[0, 1]:.0f} % with one local step to {digits[0, 5]:.0f} % with five; ν = 3 goes from "
        f"{digits[3, 1]:.0f} to {digits[3, 5]:.0f} %",
        f"(Fashion-MNIST: FedAvg from {fashion[0, 1]:.0f} to {fashion[0, 5]:.0f} %, ν = 3 from {fashion[3, 1]:.0f} to "
        f"{fashion[3, 5]:.0f} %)",
        f"after 300 rounds ν = 3 leads ν = 1 by {further[1].lead:.0f} points after one step and by "
        f"{further[10].lead:.0f} points after ten",
        with_all_images(),
        f"FedAvg with five local steps has the highest mean in {highest.sum()} of {len(highest)} rows",
    ]


def with_all_images() -> str:
    found = {deployed: lead(deployed, shots="all", rounds=30) for deployed in (1, 5, 10)}
    assert found[1].high < 0
    assert found[10].high < 0
    assert found[5].low < 0 < found[5].high < 1
    further = {deployed: lead(deployed, shots="all", rounds=30, against="ν = 1") for deployed in (5, 10)}
    assert all(one.low > 0 for one in further.values())
    return (
        "With all images it is the other way round: FedAvg with several local steps leads, "
        f"by {-found[1].lead:.0f} points after one step and by {-found[10].lead:.0f} points after ten; "
        f"its {-found[5].lead:.0f} points after five just fail to be clear. Looking further pays there as well: "
        f"ν = 3 leads ν = 1 by {further[5].lead:.0f} and {further[10].lead:.0f} points"
    )


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
    assert f"it is {lead(1, rounds=30).lead:.0f} points instead of {lead(1).lead:.0f}," in next(answers)
    assert f"{many()['digits', '10 classes permuted', 30, 0, 5]:.0f} % against" in (last := next(answers))
    assert f"against {many()['digits', '10 classes permuted', 30, 3, 5]:.0f} %." in last
    assert not list(answers)


def test_readme_says_what_the_tables_say():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    best, three = max(percent(method, 1) for method in FEDAVGS), percent("ν = 3", 1)
    assert f"FedAvg's best has {best} % after it, no more than no training, and ν = 3 has {three} %." in readme
    assert best == percent("no training", 1)
