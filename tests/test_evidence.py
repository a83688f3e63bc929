"""The evidence study: nothing that is scored was tuned on, a kill in the middle loses nothing, the tables come out."""

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import gmfl_lite as gl
from gmfl_lite.basics.over_seeds import over_seeds

STUDIES = Path(__file__).parent.parent / "studies"


@pytest.fixture
def evidence(monkeypatch):
    monkeypatch.syspath_prepend(STUDIES)
    import evidence

    return evidence


def quick(cache, out):
    command = [sys.executable, STUDIES / "evidence.py", "--quick", "--jobs", "2", "--cache", cache, "--out", out]
    env = {**os.environ, "TQDM_DISABLE": "1"}
    return subprocess.Popen(command, env=env, start_new_session=True)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="this system knows no groups of processes")
def test_killed_in_the_middle_it_goes_on_and_gives_the_committed_tables(tmp_path):
    """All processes are killed at once, as a power cut would: what was finished stays, and is not computed again."""
    cache, out = tmp_path / "cache", tmp_path / "out"
    with quick(cache, out) as study:
        while study.poll() is None and len(list(cache.glob("*.result"))) < 8:
            time.sleep(0.05)
        assert study.poll() is None
        os.killpg(study.pid, signal.SIGKILL)
    time.sleep(0.2)
    finished = {path: path.stat().st_mtime_ns for path in cache.glob("*.result")}
    assert len(finished) >= 8
    assert all(gl.load_result(path).status != "stopped" for path in finished)
    assert not list(out.glob("*.csv"))
    with quick(cache, out) as study:
        study.wait()
    assert study.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(list(cache.glob("*.result"))) > len(finished)
    for name in ("tuning", "results", "curves"):
        made, committed = (
            (folder / f"{name}.csv").read_text(encoding="utf-8") for folder in (out, STUDIES / "evidence-quick")
        )
        if platform.machine().lower() not in ("x86_64", "amd64"):  # processors of other kinds round differently
            made, committed = (table.splitlines()[0] + str(table.count("\n")) for table in (made, committed))
        assert made == committed


@pytest.mark.slow
def test_no_federation_that_is_scored_is_tuned_on(evidence, monkeypatch, tmp_path):
    """Watched from outside: which federations a study asks for before it has chosen, and which after."""
    asked = []

    def fake(points, **options):
        asked.extend((point.seed, point.fine_tune_lr, point.meta_lr) for point in points)
        group = ["trained", "new"] * len(points)
        rows = pd.DataFrame({"group": group, "status": "completed", "round": points[0].rounds, "fine_tune_steps": 5})
        # Scores on seeds from 0 to 999 are perfect where step sizes are bad: whoever looked would be drawn there.
        errors = [abs(np.log2(point.fine_tune_lr)) + abs(np.log2(point.meta_lr) + 2) for point in points]
        accuracy = [1 / (1 + e) if p.seed >= 1000 else 1 - 1 / (1 + e) for p, e in zip(points, errors, strict=True)]
        return rows.assign(accuracy=np.repeat(accuracy, 2), worst_decile_accuracy=0.0)

    monkeypatch.setattr(gl, "sweep", fake)
    for cell in {*evidence.plan(), *evidence.quick_plan()}:
        asked.clear()
        tried, scored = evidence.study(cell, tmp_path)
        seeds = [seed for seed, *_ in asked]
        fresh = [seed for seed in seeds if seed < 1000]
        assert set(seeds) - set(fresh) == set(evidence.VALIDATION_SEEDS)
        assert fresh == seeds[-len(fresh) :] == list(range(cell.seeds))  # nothing is scored before all is tuned
        (best,) = tried[tried["chosen"]].itertuples()
        assert (best.fine_tune_lr, best.meta_lr) == pytest.approx((1, 0.25))
        assert {sizes for seed, *sizes in map(tuple, asked) if seed < 1000 for sizes in [tuple(sizes)]} == {
            (best.fine_tune_lr, best.meta_lr)
        }
        assert len(scored) == 2 * cell.seeds


def test_step_sizes_that_diverge_on_any_validation_federation_are_not_chosen(evidence, monkeypatch):
    def fake(points, **options):
        status = ["diverged" if p.seed == 1003 and p.meta_lr > 0.5 else "completed" for p in points]
        accuracy = [p.meta_lr if p.meta_lr < 2 else 0.0 for p in points]
        return pd.DataFrame({"group": "new", "status": status, "accuracy": accuracy})

    monkeypatch.setattr(gl, "sweep", fake)
    tried = evidence.tune(evidence.plan()[0], None)
    assert tried["validation_accuracy"].max() > 1
    assert tried[tried["chosen"]]["meta_lr"].tolist() == [0.5]


def test_the_best_by_luck_on_few_federations_is_not_chosen(evidence, monkeypatch):
    """meta_lr = 1 looks best on the one that the search sees; over all five, 0.5 is best."""

    def fake(points, **options):
        lucky = [(p.fine_tune_lr, p.meta_lr) == (0.5, 1) for p in points]
        luck = [0.3 * here * (1 if p.seed == 1000 else -1) for here, p in zip(lucky, points, strict=True)]
        far = [abs(np.log2(p.fine_tune_lr) + 1) + abs(np.log2(p.meta_lr) + 1) for p in points]
        accuracy = [0.7 - f / 9 + by for f, by in zip(far, luck, strict=True)]
        return pd.DataFrame({"group": "new", "status": "completed", "accuracy": accuracy})

    monkeypatch.setattr(gl, "sweep", fake)
    tried = evidence.tune(evidence.Cell("digits", "IID", 3, validation_seeds=1), None)
    assert tried.loc[tried["validation_accuracy"].idxmax(), "meta_lr"] == 1
    assert set(tried[tried["chosen"]]["meta_lr"]) == {0.5}
    assert tried["accuracy_on_all"].notna().sum() == evidence.FINALISTS
    assert tried["accuracy_on_all"].idxmax() == tried["chosen"].idxmax()


def test_a_hill_from_which_the_first_start_cannot_see_the_mountain(evidence, monkeypatch):
    def fake(points, **options):
        at = [2 * np.log2([p.fine_tune_lr, p.meta_lr]) + 2 for p in points]  # exponents of √2 from the start
        hill, mountain = ([np.abs(a - top).sum() for a in at] for top in ((1, 1), (-8, 2)))
        accuracy = [max(0.5 - h / 10, 0.9 - m / 10, 0.0) for h, m in zip(hill, mountain, strict=True)]
        return pd.DataFrame({"group": "new", "status": "completed", "accuracy": accuracy})

    monkeypatch.setattr(gl, "sweep", fake)
    (best,) = (tried := evidence.tune(evidence.Cell("digits", "IID", 3), None))[tried["chosen"]].itertuples()
    assert (best.fine_tune_lr, best.meta_lr) == (0.5 / 16, 0.5 * 2)


def test_a_run_that_diverges_is_started_again_with_a_smaller_step(evidence, monkeypatch):
    asked = []

    def fake(points, **options):
        (point,) = points
        asked.append((point.seed, point.meta_lr))
        status = "diverged" if point.seed == 1 and point.meta_lr > 0.6 else "completed"
        row = {"status": status, "round": point.rounds, "group": "new", "fine_tune_steps": 5}
        return pd.DataFrame([row | {"accuracy": 0.5, "worst_decile_accuracy": 0.4}])

    monkeypatch.setattr(gl, "sweep", fake)
    scored = evidence.score(evidence.Cell("digits", "IID", 3, seeds=3), 0.5, 1.0, None)
    assert asked == [(0, 1.0), (1, 1.0), (1, pytest.approx(0.5**0.5)), (1, 0.5), (2, 1.0)]
    assert scored["restarts"].tolist() == [0, 2, 0]
    assert set(scored["status"]) == {"completed"}


def test_all_methods_of_a_regime_share_everything_but_the_method(evidence):
    own = {"nu", "local_steps", "gradient", "fine_tune_lr", "meta_lr", "rounds", "eval_every", "seed"}
    shared = {}
    for cell in evidence.plan():
        rest = {name: value for name, value in cell.start.to_dict().items() if name not in own}
        assert shared.setdefault((cell.dataset, cell.shift), rest) == rest
        assert evidence.DEPLOYED in cell.start.eval_steps


@pytest.mark.parametrize("folder", ["evidence", "evidence-quick"])
def test_the_committed_tables_are_of_the_plan(evidence, folder):
    tables = (pd.read_csv(STUDIES / folder / f"{name}.csv") for name in ("results", "curves", "tuning"))
    results, curves, tuning = tables
    cells = evidence.quick_plan() if "quick" in folder else evidence.plan()
    names = ["dataset", "shift", "rounds", "nu", "local_steps", "gradient"]
    planned = [(c.dataset, c.shift, c.start.rounds, c.nu, c.local_steps, c.gradient) for c in cells]
    for table in (results, curves, tuning):
        assert list(table[names].drop_duplicates().itertuples(index=False, name=None)) == planned
    assert results.groupby(names, sort=False)["seed"].nunique().tolist() == [cell.seeds for cell in cells]
    ends = curves[curves["round"] == curves["rounds"]].set_index([*names, "seed"])["accuracy"]
    same = results.query("group == 'new' and fine_tune_steps == @evidence.DEPLOYED").set_index([*names, "seed"])
    assert ends.equals(same["accuracy"])
    assert tuning.groupby(names)["chosen"].sum().eq(1).all()
    best = tuning.groupby(names)["accuracy_on_all"].transform("max")
    assert tuning[tuning["chosen"]]["accuracy_on_all"].equals(best[tuning["chosen"]])
    completed = results[results["status"] == "completed"]
    assert completed["accuracy"].between(0, 1).all()
    assert (completed["worst_decile_accuracy"] <= completed["accuracy"] + 1e-9).mean() > 0.99


def test_what_a_round_costs_is_known_of_each_headline_method_and_grows_with_local_steps(evidence):
    timings = pd.read_csv(STUDIES / "evidence" / "timings.csv")
    columns = ["dataset", "nu", "local_steps", "gradient"]
    expected = [tuple(getattr(cell, name) for name in columns) for cell in evidence.timed()]
    assert list(timings[columns].itertuples(index=False, name=None)) == expected
    for _, method in timings.sort_values("local_steps").groupby(["dataset", "nu", "gradient"]):
        assert (method["seconds_per_round"].pct_change().dropna() > -0.1).all()


def test_the_tables_say_what_was_concluded_from_them(evidence):
    """A study that is made again may change who leads."""
    results, curves = (pd.read_csv(STUDIES / "evidence" / f"{name}.csv") for name in ("results", "curves"))
    new = results.query("group == 'new' and fine_tune_steps == 5 and gradient == 'exact'")
    means = over_seeds(new, ["dataset", "shift", "rounds", "nu", "local_steps"])
    few = {"digits": 30, "fashion-mnist": 40}

    def ahead(dataset, method, other, shift=evidence.HEADLINE, rounds=None, by=0.0):
        """Whether a method, (nu, local_steps), is ahead of another by more than `by`, their intervals apart."""
        better, worse = (means.loc[dataset, shift, rounds or few[dataset], *which] for which in (method, other))
        return worse["high"] < better["low"] and better["mean"] - worse["mean"] > by

    for dataset, rounds in few.items():
        assert ahead(dataset, (3, 1), (1, 1), by=0.03)
        assert ahead(dataset, (3, 1), (0, 1), by=0.03)
        assert ahead(dataset, (0, 10), (3, 1), by=0.03)
        assert ahead(dataset, (0, 5), (1, 5))
        at_five = means.loc[dataset, evidence.HEADLINE, rounds]["mean"]
        assert at_five[0, 5] > at_five[1, 5] > at_five[3, 5]
        assert ahead(dataset, (3, 1), (1, 1), "4 classes permuted", by=0.03)
        way = curves.query("dataset == @dataset and shift == @evidence.HEADLINE and rounds == @rounds")
        way = way.query("local_steps == 1 and gradient == 'exact'").groupby(["nu", "round"])["accuracy"].mean()
        needed = way[3][way[3] >= way[1][rounds]].index.min()  # rounds to where ν = 1 ends
        assert needed <= rounds / 2
    assert ahead("digits", (1, 2), (0, 2))
    assert ahead("digits", (3, 2), (0, 2))
    assert not ahead("digits", (3, 1), (1, 1), rounds=150)
    assert not ahead("digits", (1, 1), (3, 1), rounds=150)
    assert ahead("fashion-mnist", (5, 1), (3, 1))
    regimes = means.groupby(["dataset", "shift", "rounds"])["mean"].idxmax()
    assert sum(best[3:] not in {(0, 5), (0, 10)} for best in regimes) == 1
    apart = [
        regime for regime in means.droplevel(["nu", "local_steps"]).index.unique()
        if regime[1] != evidence.HEADLINE and ahead(regime[0], (3, 1), (1, 1), regime[1])
    ]  # fmt: skip
    assert {shift for _, shift, _ in apart} == {"4 classes permuted"}
