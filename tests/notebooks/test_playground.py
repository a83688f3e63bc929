"""The key to the playground's questions, in for-teachers.md, says what its own screen shows."""

import re
from functools import cache

import nbformat
import pytest
from clean_machine import ROOT

import gmfl_lite as gl
from gmfl_lite.explorer.knobs import KNOBS, PRESETS
from gmfl_lite.explorer.what_if import WhatIf

NOTEBOOK = nbformat.read(ROOT / "notebooks" / "07-explorer.ipynb", as_version=4)
KEY = re.findall(r"^\| 07 \| \d\. .*? \| (.*?) \|$", (ROOT / "notebooks" / "for-teachers.md").read_text("utf-8"), re.M)


@cache
def of_the_notebook() -> gl.Experiment:
    """Return what the notebook's panel begins with."""
    values: dict = {}
    exec(next(cell.source for cell in NOTEBOOK.cells if "parameters" in cell.metadata.get("tags", [])), values)
    given = {name: value for name, value in values.items() if name in gl.Experiment().to_dict()}
    return gl.Experiment(**given | {"eval_steps": [int(steps) for steps in values["eval_steps"].split()]})


def base() -> gl.Experiment:
    """Return the same, scored at the end alone."""
    return of_the_notebook().replace(eval_every=of_the_notebook().rounds)


@cache
def shown(*changes) -> dict[int, int]:
    """Return the accuracy of new agents after 0, 1, … fine-tuning steps that the panel shows, in percent."""
    result = WhatIf.from_values(WhatIf(base(), 0), dict(changes)).run()
    assert result.status == "completed", result.message
    return {steps: int(f"{100 * accuracy:.0f}") for steps, accuracy in result.table().loc["new"].items()}


def at(**changes) -> dict[int, int]:
    return shown(*sorted(changes.items()))


def test_every_question_has_its_answer():
    (questions,) = [cell.source for cell in NOTEBOOK.cells if "*Predict:*" in cell.source]
    assert len(re.findall(r"^\*\*\d\.", questions, re.M)) == len(KEY) == 6 <= 7
    for part in ("Predict", "Run", "Notice", "Why"):
        assert questions.count(f"*{part}:*") == 6


def test_the_cells_after_the_panel_train_nothing():
    """They ask for the very run that the panel does without a knob moved."""
    assert WhatIf.from_values(WhatIf(of_the_notebook(), 0), {}).experiment == of_the_notebook()


@pytest.mark.slow
def test_how_far_ahead_is_far_enough():
    nu = {nu: at(nu=nu) for nu in KNOBS["nu"].values}
    for steps, leading in ((1, [3, 5, 10]), (3, [10, 5, 3]), (10, [10, 5, 2])):
        assert sorted(nu, key=lambda one: nu[one][steps], reverse=True)[:3] == leading
    assert max(nu[one][0] for one in nu) <= 10
    assert KEY[0].startswith(
        f"After three steps ν = 10 and 5 lead ({nu[10][3]} and {nu[5][3]} %), after ten the same two ({nu[10][10]} and "
        f"{nu[5][10]} %). After one step ν = 3 has {nu[3][1]} %, ν = 5 and 10 {nu[5][1]} and {nu[10][1]} %, no more "
        f"than luck. ν = 1 is far behind ({nu[1][3]} % after three). "
        "Before any step all guess."
    )
    assert nu[3][1] - nu[10][1] <= 5  # a point is one image, nearly


@pytest.mark.slow
def test_more_rounds_lead_to_what_another_notebook_says():
    three, ten = (at(nu=nu, rounds=500) for nu in (3, 10))
    later = f"with three steps {three[3]} % for ν = 3 and {ten[3]} % for ν = 10, with one {three[1]} and {ten[1]} %."
    assert KEY[0].endswith(f"After 500 rounds it is as in 05: {later}")


@pytest.mark.slow
def test_without_disagreement_there_is_next_to_no_lead():
    fedavg, ahead = (at(nu=nu, **PRESETS["IID"]) for nu in (0, 3))
    every = [*fedavg.values(), *ahead.values()]
    assert all(abs(ahead[steps] - fedavg[steps]) <= 4 for steps in ahead)
    assert KEY[1].startswith(f"Next to nothing: {min(every)} to {max(every)} % with and without looking ahead")


@pytest.mark.slow
def test_fedavg_with_five_local_steps_catches_up():
    (one, five), (ahead, ahead_five) = ([at(nu=nu, local_steps=tau) for tau in (1, 5)] for nu in (0, 3))
    assert five[3] < ahead_five[3]
    assert KEY[2].startswith(
        f"FedAvg: from {one[3]} % to {five[3]} % after three steps, where ν = 3 goes from {ahead[3]} % to "
        f"{ahead_five[3]} %; after five steps FedAvg is ahead, {five[5]} % against {ahead_five[5]} %."
    )
    assert five[5] > ahead_five[5]


@pytest.mark.slow
def test_small_fine_tuning_steps_lead_nowhere():
    fedavg, ahead = (at(nu=nu, fine_tune_lr=0.03) for nu in (0, 3))
    assert KEY[3].startswith(
        f"Both pictures become flat: {ahead[3]} % for ν = 3 and {fedavg[3]} % for FedAvg after three steps, "
        f"{ahead[10]} and {fedavg[10]} % after ten."
    )
    assert f"α = 1 ahead ({at(fine_tune_lr=1.0)[3]} % after three steps) and α = 3 diverging" in KEY[3]
    assert at(fine_tune_lr=1.0)[3] == max(at(fine_tune_lr=alpha)[3] for alpha in KNOBS["fine_tune_lr"].values[:-1])
    (largest,) = KNOBS["fine_tune_lr"].values[-1:]
    assert largest == 3.0
    assert WhatIf.from_values(WhatIf(base(), 0), {"fine_tune_lr": largest}).run().status == "diverged"


@pytest.mark.slow
def test_few_classes_help_where_names_are_permuted():
    ahead, fedavg = ({alpha: at(nu=nu, dirichlet_alpha=alpha)[3] for alpha in (0.01, 0.03, 100.0)} for nu in (3, 0))
    lead = {alpha: ahead[alpha] - fedavg[alpha] for alpha in ahead}
    assert abs(lead[0.01]) <= 4  # five images, as question 2 says
    assert KEY[4].startswith(
        f"It rises, from {ahead[100.0]} % at 100 to {ahead[0.03]} % at 0.03. The lead shrinks from {lead[100.0]} "
        f"points to {lead[0.03]}, as FedAvg rises from {fedavg[100.0]} % to {fedavg[0.03]} %; at 0.01 the two cannot "
        f"be told apart (FedAvg {fedavg[0.01]} %, ν = 3 {ahead[0.01]} %)."
    )


@pytest.mark.slow
def test_seeds_scatter_as_the_key_says():
    span = r"from (\d+) to (\d+) %"
    said = rf"The accuracy varies {span} with the weights, and {span} with the seed of the data\."
    low, high, lowest, highest = map(int, re.match(said, KEY[5]).groups())
    assert highest - lowest > high - low
    for seed, told in (("weights_seed", (low, high)), ("seed", (lowest, highest))):
        found = [at(**{seed: n})[3] for n in KNOBS[seed].values]
        assert (min(found), max(found)) == told
