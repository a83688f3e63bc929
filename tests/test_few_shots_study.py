"""The study of few shots: nothing that is scored was tuned on, nothing is made twice, its page says what it found."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

import gmfl_lite as gl

STUDIES = Path(__file__).parent.parent / "studies"
LOOKS = 24
REGIME = ["agents", "shots", "rounds", "server"]


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(STUDIES)
    import few_shots

    return few_shots


@pytest.fixture
def quick(study, monkeypatch):
    """Rules under which a cell takes a second."""
    monkeypatch.setattr(study, "SCORED_SEEDS", (3000, 3001))
    monkeypatch.setattr(study, "VALIDATION_SEEDS", (1000,))
    monkeypatch.setattr(study, "TRIALS", (7, 7))
    monkeypatch.setattr(study, "DEPLOYED", (1, 5))
    whole = study.Regime.experiment.fget
    smaller = {"n_agents": 6, "n_new_agents": 3, "agents_per_round": 2, "model": "softmax"}
    monkeypatch.setattr(study.Regime, "experiment", property(lambda regime: whole(regime).replace(**smaller)))
    return study


@pytest.fixture(params=["few-shots", "map"])
def name(request):
    """Of a study."""
    return request.param


@pytest.fixture
def tables(name):
    kinds = {"shots": str, "key": str}
    return {each: pd.read_csv(STUDIES / name / f"{each}.csv", dtype=kinds) for each in ("tuning", "cells", "results")}


def as_scored(points, on_point, **_):
    """Stand in for gl.sweep: seed 3003 diverges with meta_lr above 0.1 or server_lr above 0.5."""
    for number, point in enumerate(points):
        server_lr = 0 if point.server == "average" else point.server_lr
        wild = point.seed == 3003 and (point.meta_lr > 0.1 or server_lr > 0.5)
        rows = {"group": ["trained", "new"], "fine_tune_steps": point.eval_steps[-1], "loss": 1.0, "accuracy": 0.5}
        rows |= {"worst_decile_accuracy": 0.0, "status": "diverged" if wild else "completed", "message": "too far"}
        on_point(number, pd.DataFrame(rows))


def test_no_federation_that_is_scored_is_tuned_on(quick, monkeypatch):
    tuned_on, scored = set(), set()
    tune, sweep = gl.tune, gl.sweep

    def watched(base, **options):
        tuned_on.update(options["validation_seeds"])
        assert options["steps"] in quick.DEPLOYED
        return tune(base, **options)

    monkeypatch.setattr(gl, "tune", watched)
    monkeypatch.setattr(gl, "sweep", lambda runs, **k: scored.update(run.seed for run in runs) or sweep(runs, **k))
    made = quick.study(quick.Cell(quick.Regime(rounds=2), "ν = 1"), None)
    assert tuned_on == {1000}
    assert scored == {3000, 3001}
    assert made["cells"]["deployed"].tolist() == [1, 5]
    new = made["results"].query("group == 'new'")
    assert new[["deployed", "seed"]].to_numpy().tolist() == [[s, n] for s in (1, 5) for n in (3000, 3001)]
    monkeypatch.setattr(quick, "SCORED_SEEDS", (1000, 3000))
    with pytest.raises(ValueError, match="must be others"):
        quick.score({5: gl.Experiment()}, None, quick.Regime())


def test_no_other_study_has_seen_what_is_scored(study, monkeypatch):
    import evidence

    seen = {*study.VALIDATION_SEEDS, *evidence.VALIDATION_SEEDS, *range(max(cell.seeds for cell in evidence.plan()))}
    assert not seen & set(study.SCORED_SEEDS)
    assert len(study.SCORED_SEEDS) == 10


def test_what_is_scored_is_what_validation_found_best(quick, monkeypatch):
    scored = {}
    monkeypatch.setattr(quick, "score", lambda tuned, cache, regime: scored.update(tuned) or pd.DataFrame())
    made = quick.study(quick.Cell(quick.Regime(rounds=2), "FedAvg, τ = 2"), None)
    for (deployed, best), (_, tried), cell in zip(
        scored.items(), made["tuning"].groupby("deployed"), made["cells"].itertuples(), strict=True
    ):
        assert deployed == cell.deployed
        accuracies = tried["accuracy"].round(4)
        those = tried[accuracies == accuracies.max()]
        least = those[those["loss"].round(4) == those["loss"].round(4).min()]
        sizes = [(row.fine_tune_lr, row.meta_lr) for row in least.itertuples()]
        assert (best.fine_tune_lr, best.meta_lr) in sizes
        assert cell.validation_accuracy == pytest.approx(accuracies.max())
        assert set(tried["start"]) == {0, 1, 2, 3}
        assert cell.trials == len(tried)


def test_a_search_goes_on_while_the_best_is_at_the_edge(quick, monkeypatch):
    monkeypatch.setattr(quick, "TRIALS", (5, 40))
    cell = quick.Cell(quick.Regime(rounds=2), "FedAvg, τ = 1")
    allowed, tune = [], gl.tune
    monkeypatch.setattr(gl, "tune", lambda base, **k: allowed.append(k["trials"]) or tune(base, **k))
    tuned = quick.search(cell, cell.starts(1)[0], 1, None)
    assert allowed[:2] == [5, 10]
    assert not tuned.at_edge or allowed[-1] == 40


@pytest.mark.parametrize("server", ["average", "adam"])
def test_a_run_that_diverges_begins_again_with_smaller_steps(study, monkeypatch, server):
    asked = []
    monkeypatch.setattr(
        gl,
        "sweep",
        lambda points, on_point, **_: (
            asked.extend((p.seed, p.meta_lr, p.server_lr) for p in points) or as_scored(points, on_point)
        ),
    )
    sizes = {"meta_lr": 0.16} if server == "average" else {"meta_lr": 0.05, "server_lr": 0.8}
    best = gl.Experiment(server=server, **sizes)
    scored = study.score({5: best}, None, study.Regime())
    again = [sizes[1:] for sizes in asked if sizes[0] == 3003]
    if server == "average":
        assert again == pytest.approx(np.array([(0.16, 1), (0.16 / 2**0.5, 1), (0.08, 1)]))
    else:
        assert again == pytest.approx(np.array([(0.05, 0.8), (0.05 / 2**0.5, 0.8 / 2**0.5), (0.025, 0.4)]))
    assert scored.groupby("seed")["restarts"].first().tolist() == [0, 0, 0, 2, 0, 0, 0, 0, 0, 0]
    with pytest.raises(RuntimeError, match="diverged: too far"):
        study.score({5: best.replace(meta_lr=50.0)}, None, study.Regime())


def test_a_run_that_fails_is_not_begun_again(study, monkeypatch):
    asked, failed = [], pd.DataFrame([{"status": "failed", "message": "ValueError: no"}])

    def fails(points, on_point, **_):
        asked.extend(points)
        for number in range(len(points)):
            on_point(number, failed)

    monkeypatch.setattr(gl, "sweep", fails)
    with pytest.raises(RuntimeError, match="failed: ValueError: no"):
        study.score({5: gl.Experiment()}, None, study.Regime())
    assert [point.seed for point in asked] == list(study.SCORED_SEEDS)


def test_no_more_leads_are_looked_at_than_the_intervals_allow(study, name, tables):
    leads = study.leads(tables["cells"], tables["results"], study.comparisons(name))
    assert len(leads) == 2 * len(study.DEPLOYED) * len(study.PLANS[name]) <= study.comparisons(name)


def test_all_methods_of_a_regime_share_everything_but_the_method(study, name):
    method = {"nu", "local_steps", "gradient", "proximal", "fine_tune_lr", "meta_lr"}
    shared = {}
    for cell in study.plan(name):
        for start in cell.starts(5) if cell.trains else ():
            rest = {name: value for name, value in start.to_dict().items() if name not in method}
            assert shared.setdefault(cell.regime, rest) == rest
            assert start.rounds == cell.regime.rounds
    assert len(shared) == len(study.PLANS[name])


def test_no_training_is_none_whatever_the_server(study, name):
    for regime in (
        each for each in study.PLANS[name] if each.agents != "Fashion-MNIST"
    ):  # whose files may not be there
        (start, *_) = study.Cell(regime, "no training").starts(1)
        result = gl.run(
            start.replace(n_agents=4, n_new_agents=2, agents_per_round=1), model=regime.module(), progress=False
        )
        first, last = (result.history[result.history["round"] == round_number] for round_number in (0, 1))
        assert first.drop(columns="round").to_numpy().tolist() == last.drop(columns="round").to_numpy().tolist()


@pytest.mark.slow
def test_stopped_and_continued_the_tables_are_the_same(quick, tmp_path, monkeypatch):
    regime = quick.Regime(rounds=2)
    cells = [quick.Cell(regime, name) for name in ("FedAvg, τ = 5, own server step", "ν = 1", "local training alone")]
    files = ("tuning.csv", "results.csv", "cells.csv", "leads.csv")
    with ThreadPoolExecutor(1) as executor:
        whole = quick.Tables(tmp_path / "whole", cells, LOOKS)
        quick.make(whole, executor, tmp_path / "cache")
        quick.make(quick.Tables(tmp_path / "parts", cells, LOOKS), executor, tmp_path / "cache", "own server step")
        parts = quick.Tables(tmp_path / "parts", cells, LOOKS)
        assert parts.missing == cells[1:]
        quick.make(parts, executor, tmp_path / "cache", "ν = 1")
        results = pd.read_csv(tmp_path / "parts" / "results.csv")
        results[:-2].to_csv(tmp_path / "parts" / "results.csv", index=False)  # as if cells.csv were of before
        results[results["method"] != "ν = 1"].to_csv(tmp_path / "parts" / "results.csv", index=False)
        parts = quick.Tables(tmp_path / "parts", cells, LOOKS)
        assert parts.missing == cells[1:]
        quick.make(parts, executor, tmp_path / "cache")
    for name in files:
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not list(tmp_path.glob("*/*.part"))
    assert not quick.Tables(tmp_path / "whole", cells, LOOKS).missing
    monkeypatch.setattr(quick, "RESTARTS", quick.RESTARTS + 1)  # other rules
    assert quick.Tables(tmp_path / "whole", cells, LOOKS).missing == cells


def test_a_cell_that_fails_is_named_and_the_others_are_kept(quick, tmp_path, monkeypatch):
    cells = [quick.Cell(quick.Regime(rounds=2), name) for name in ("ν = 1", "no training")]
    study = quick.study

    def fails(cell, cache):
        if cell == cells[0]:
            raise RuntimeError("no")
        return study(cell, cache)

    monkeypatch.setattr(quick, "study", fails)
    tables = quick.Tables(tmp_path, cells, LOOKS)
    with ThreadPoolExecutor(1) as executor, pytest.raises(BaseExceptionGroup) as found:
        quick.make(tables, executor, tmp_path / "cache")
    (error,) = found.value.exceptions
    assert error.__notes__ == [str(cells[0])]
    assert quick.Tables(tmp_path, cells, LOOKS).missing == cells[:1]


def test_what_has_not_begun_is_not_begun_after_an_interrupt(quick, tmp_path, monkeypatch):
    begun = []

    class Executor:
        def submit(self, function, cell):
            begun.append(Future())
            return begun[-1]

    def interrupted(futures):
        raise KeyboardInterrupt

    monkeypatch.setattr(quick, "as_completed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quick.make(quick.Tables(tmp_path, quick.plan("map")[:3], LOOKS), Executor(), tmp_path)
    assert [future.cancelled() for future in begun] == [True] * 3


@pytest.mark.parametrize("regime", [{"rounds": 30}, {"rounds": 100}, {"server": "adam", "rounds": 30}], ids=str)
@pytest.mark.parametrize("method", ["FedAvg, τ = 1", "FedAvg, τ = 5, own server step", "ν = 3"])
def test_every_search_begins_once_next_to_no_training(study, regime, method):
    cell = study.Cell(study.Regime(**regime), method)
    assert all(cell.starts(steps)[-1].fine_tune_lr == study.WITHOUT_TRAINING[steps] for steps in study.DEPLOYED)
    *others, last = cell.starts(10)
    assert len(others) == len(study.STARTS)
    last = last.replace(n_agents=6, n_new_agents=2, agents_per_round=2, eval_steps=(0,), eval_every=last.rounds)
    none = {"rounds": 1, "eval_every": 1, "meta_lr": 1e-12, "server_lr": 1e-12 if "server" in regime else 1.0}
    start, moved = (gl.run(last.replace(**how), progress=False).params for how in (none, {}))
    gone = sum((moved[name] - tensor).square().sum() for name, tensor in start.items()) ** 0.5
    assert 0 < gone < 0.15 * sum(tensor.square().sum() for tensor in start.values()) ** 0.5


def toy(rng, rounds=(30,)):
    """Cells and results of four methods, deployed with one step and with five."""
    validation = {("ν = 1", 1): 0.5, ("ν = 3", 1): 0.7, ("FedAvg, τ = 1", 1): 0.6, ("no training", 1): 0.4}
    validation |= {("ν = 1", 5): 0.9, ("ν = 3", 5): 0.7, ("FedAvg, τ = 1", 5): 0.6, ("no training", 5): 0.8}
    rows, scores = [], []
    for many in rounds:
        where = {"agents": "digits", "shots": "1", "rounds": many, "server": "average"}
        for (method, deployed), value in validation.items():
            row = {**where, "method": method, "deployed": deployed}
            rows.append({**row, "validation_accuracy": value, "validation_loss": 1.0})
            for seed in rng.permutation(10):  # rows in any order
                scores.append({**row, "seed": seed, "group": "new", "accuracy": rng.random()})
                scores.append({**row, "seed": seed, "group": "trained", "accuracy": 0.0})
    return pd.DataFrame(rows), pd.DataFrame(scores)


def end(study, one, other):
    """The lower end of a lead in points, by SciPy."""
    interval = scipy.stats.ttest_1samp(100 * (one - other), 0).confidence_interval(1 - 0.05 / LOOKS)
    return interval.low


def wide(results):
    new = results[results["group"] == "new"]
    return new.pivot_table(index="seed", columns=["rounds", "deployed", "method"], values="accuracy")


def raised(results, deployed, method, by):
    there = (results["group"] == "new") & (results["deployed"] == deployed) & (results["method"] == method)
    return results.assign(accuracy=results["accuracy"] + by * there)


def test_leads_are_over_all_others_and_hold_together(study, rng):
    cells, results = toy(rng)
    # After one step ν = 3 is ahead of every average, least of the one that validation thinks worse.
    results = raised(raised(results, 1, "ν = 3", 3.0), 1, "no training", 0.8)
    results = raised(results, 5, "no training", 3.0)
    found = study.leads(cells, results, LOOKS).set_index(["against", "deployed"])
    assert len(found) == 4
    averages, aheads, scores = ("FedAvg, τ = 1", "no training"), ("ν = 1", "ν = 3"), wide(results)[30]

    row, here = found.loc["no looking ahead", 1], scores[1]
    assert (row["one"], row["other"]) == ("ν = 3", "no training"), "the hardest, not the best by validation"
    assert row["lead"] == pytest.approx(100 * (here["ν = 3"] - here["no training"]).mean())
    assert row["low"] == pytest.approx(min(end(study, here["ν = 3"], here[other]) for other in averages))
    assert row["high"] == pytest.approx(-min(end(study, here[averages[0]], here[other]) for other in aheads))
    assert 0 < row["low"] < row["lead"] < row["high"]

    row, here = found.loc["no looking ahead", 5], scores[5]
    hardest = max(aheads, key=lambda other: here[other].mean())
    assert (row["one"], row["other"]) == (hardest, "no training")
    assert row["lead"] == pytest.approx(100 * (here[hardest] - here["no training"]).mean())
    assert row["high"] == pytest.approx(-min(end(study, here["no training"], here[other]) for other in aheads))
    assert row["low"] == pytest.approx(min(end(study, here["ν = 1"], here[other]) for other in averages))
    assert row["low"] < row["lead"] < row["high"] < 0

    for deployed in (1, 5):
        row, here = found.loc["ν = 1", deployed], scores[deployed]
        assert (row["one"], row["other"]) == ("ν = 3", "ν = 1")
        assert row["low"] == pytest.approx(end(study, here["ν = 3"], here["ν = 1"]))
        assert row["high"] == pytest.approx(-end(study, here["ν = 1"], here["ν = 3"]))


def test_a_rival_may_stop_after_fewer_rounds(study, rng):
    cells, results = toy(rng, rounds=(30, 300))
    best = (results["rounds"] == 30) & (results["method"] == "FedAvg, τ = 1") & (results["group"] == "new")
    results["accuracy"] += 5 * best
    results = raised(results, 1, "ν = 3", 2.0)
    found = study.leads(cells, results, LOOKS).set_index(["against", "rounds", "deployed"]).sort_index()
    at_300, at_30 = (found.loc["no looking ahead", rounds, 1] for rounds in (300, 30))
    assert at_300["other"] == "FedAvg, τ = 1, 30 rounds"
    assert at_30["other"] == "FedAvg, τ = 1"
    assert at_300["lead"] < 0
    cells.loc[cells["server"] == "average", "shots"] = ["1"] * 8 + ["2"] * 8  # other data is another regime
    results["shots"] = np.where(results["rounds"] == 300, "2", "1")
    found = study.leads(cells, results, LOOKS).set_index(["against", "rounds", "deployed"]).sort_index()
    assert found.loc["no looking ahead", 300, 1]["one"] == "ν = 3"
    assert found.loc["no looking ahead", 300, 1]["lead"] > 0


def test_of_equals_by_accuracy_the_one_of_less_loss_is_best(study, rng):
    cells, results = toy(rng)
    cells.loc[cells["method"] == "no training", ["validation_accuracy", "validation_loss"]] = 0.6, 0.9
    found = study.leads(cells, raised(results, 1, "no training", 9.0), LOOKS).set_index(["against", "deployed"])
    assert found.loc["no looking ahead", 1]["other"] == "no training"
    assert found.loc["no looking ahead", 1]["high"] < 0


def _names(frame):
    return frame[[*REGIME, "method"]].itertuples(index=False, name=None)


def without(cells, cell):
    """The validation losses of no training in a cell's regime, by deployed steps."""
    names = cell.names | {"method": "no training"}
    own = cells[(cells[[*REGIME, "method"]] == pd.Series(names)).all(axis=1)]
    return own.set_index("deployed")["validation_loss"]


def test_the_committed_tables_are_by_these_rules(study, name, tables):
    assert [*dict.fromkeys(_names(tables["cells"]))] == [tuple(cell.names.values()) for cell in study.plan(name)]
    for cell in study.plan(name):
        cells, results, tuning = (
            frame[(frame[[*REGIME, "method"]] == pd.Series(cell.names)).all(axis=1)]
            for frame in (tables["cells"], tables["results"], tables["tuning"])
        )
        assert cells["deployed"].tolist() == list(cell.deployed)
        assert set(cells["key"]) == {cell.key}
        # Where the best is no training, a setting makes no difference, and the search says that it may be at an edge.
        edge = cells[cells["at_edge"]]
        assert edge["validation_loss"].tolist() == without(tables["cells"], cell)[edge["deployed"]].tolist()
        assert name == "map" or edge.empty
        for row in cells.itertuples():
            tried = tuning[tuning["deployed"] == row.deployed].dropna(subset="accuracy")
            assert row.validation_accuracy == pytest.approx(tried["accuracy"].max(), abs=1e-4)
            for group in ("trained", "new"):
                scored = results[(results["deployed"] == row.deployed) & (results["group"] == group)]
                assert scored["seed"].tolist() == list(study.SCORED_SEEDS)


def test_the_committed_leads_follow_from_the_other_tables(study, name, tables):
    committed = pd.read_csv(STUDIES / name / "leads.csv", dtype={"shots": str})
    found = study.leads(tables["cells"], tables["results"], study.comparisons(name))
    pd.testing.assert_frame_equal(committed, found, rtol=1e-3, atol=0.006)


@pytest.mark.parametrize("name", ["few-shots"], indirect=True)
def test_no_method_ends_below_no_training_on_the_seeds_it_is_tuned_on(tables):
    """Of the small model no search begins next to no training."""
    cells = tables["cells"].set_index([*REGIME, "deployed", "method"])["validation_accuracy"]
    without = cells.xs("no training", level="method")
    for (*where, method), accuracy in cells.items():
        assert method == "local training alone" or accuracy >= without[tuple(where)], (where, method)


def test_the_page_says_what_the_tables_say(study, name, tables):
    page = (STUDIES / name / "README.md").read_text(encoding="utf-8")
    assert page == study.Tables(STUDIES / name, study.plan(name), study.comparisons(name)).page
    for cell in study.plan(name):
        line = f"| {' | '.join(map(str, cell.names.values()))} |"
        (row,) = (row for row in page.splitlines() if row.startswith(line))
        means = [float(part.split("[")[0]) for part in row.removeprefix(line).split("|") if part.strip()]
        own = tables["results"][(tables["results"][[*REGIME, "method"]] == pd.Series(cell.names)).all(axis=1)]
        new = own[own["group"] == "new"]
        assert means == pytest.approx(
            [100 * new[new["deployed"] == s]["accuracy"].mean() for s in cell.deployed], abs=0.051
        )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["FedAvg, τ = 5", "ν = 1", "ν = 3"])
def test_other_peoples_code_trains_the_same_w(monkeypatch, method):
    pytest.importorskip("flwr"), pytest.importorskip("torchopt")
    monkeypatch.syspath_prepend(STUDIES)
    import confirm

    run = confirm.tuned(method, 5).replace(seed=3000)
    w, accuracies = confirm.theirs(run)
    ours = gl.run(run, progress=False)
    for name, tensor in ours.params.items():
        torch.testing.assert_close(tensor, w[name], rtol=1e-10, atol=1e-12)
    assert accuracies == pytest.approx(ours.agents.query("group == 'new'")["accuracy"].tolist())


def test_what_other_peoples_code_found_is_what_was_scored():
    confirmed = pd.read_csv(STUDIES / "few-shots" / "confirmed.csv")
    scored = pd.read_csv(STUDIES / "few-shots" / "results.csv", dtype={"shots": str})
    scored = scored.query("shots == '1' and rounds == 300 and deployed == 1 and group == 'new'")
    both = confirmed.merge(scored, on=["method", "seed"], validate="one_to_one", suffixes=("", "_scored"))
    assert both.groupby("method").size().to_dict() == {"FedAvg, τ = 5": 10, "ν = 1": 10, "ν = 3": 10}
    assert both["accuracy"].tolist() == both["by_others"].tolist()
    # The table has four digits of the step sizes: 300 rounds with so large an α make other images of them.
    means = both.groupby("method")[["by_others", "accuracy_scored"]].mean()
    assert means["by_others"].tolist() == pytest.approx(means["accuracy_scored"].tolist(), abs=0.01)
    assert both["weights_apart"].median() < 1e-8
