"""Points of a sweep that differ in step sizes or agents are computed as one, and end where each alone does."""

import dataclasses
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from same_result import assert_same

import gmfl_lite as gl
from gmfl_lite.engine import vectorized
from gmfl_lite.sweep import Given, together
from gmfl_lite.sweep.together import alike, run_together

grid = sys.modules["gmfl_lite.sweep.grid"]  # the name gl.sweep is the function's

BASE = gl.Experiment(
    model="softmax", n_agents=8, n_new_agents=2, agents_per_round=3, rounds=4, local_steps=2, eval_every=2,
    eval_steps=(0, 2), nu=1, device="cpu",
)  # fmt: skip
SIZES = [
    {"fine_tune_lr": 0.1, "meta_lr": 0.05}, {"fine_tune_lr": 0.4, "meta_lr": 0.2}, {"meta_lr": 0.3}, {"meta_lr": 0.1},
]  # fmt: skip
AGENTS = [
    {"seed": 1},
    {"seed": 2, "n_agents": 5, "n_new_agents": 0},
    {"seed": 1, "permuted_classes": 4},
    {"test_fraction": 0.5},
]


def points(base=BASE, sizes=SIZES):
    return [base.replace(**each) for each in sizes]


METHODS = [
    {"nu": 0},
    {"nu": 3, "proximal": 0.2, "weighting": "samples"},
    {"nu": 2, "gradient": "first_order", "server": "adam", "server_lr": 0.02},
    {"nu": 2, "gradient": "truncated", "backprop_steps": 1, "batch_size": None, "partition": "iid", "shots": 3},
    {"nu": 2, "gradient": "hessian_free", "model": "mlp", "precision": "float64"},
    {"gradient": "reptile", "nu": 2, "server": "momentum", "server_lr": 0.3},
    {"nu": 1, "model": "mlp", "personal": "head"},
    {"nu": 1, "shots": 5, "query": "disjoint", "eval_every": 3, "eval_agents": 2},
    {"dataset": "sinusoids", "partition": "iid", "model": "mlp", "nu": 1},
]


@pytest.mark.parametrize("recorded", [False, True], ids=["as it is", "recorded"])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_each_point_is_the_run_of_it_alone(method, recorded, monkeypatch):
    monkeypatch.setattr(vectorized, "RECORDED_FROM", 1 if recorded else 10**9)
    scale = 0.01 if "dataset" in method else 1  # a squared error is steeper
    varied = ("fine_tune_lr", "meta_lr") if method["nu"] else ("meta_lr",)
    sizes = [{name: lr * scale for name, lr in each.items() if name in varied} for each in SIZES]
    base = BASE.replace(fine_tune_lr=0.05 * scale, **method)
    others = [base.replace(**sizes[-1], **each) for each in AGENTS if "dataset" not in method]
    several = [*points(base, sizes), *others]
    assert len({alike(point) for point in several}) == 1
    for point, found in zip(several, run_together(several, Given()), strict=True):
        alone = gl.run(point, progress=False)
        assert (found.experiment, found.loss) == (alone.experiment, alone.loss)
        assert_same(found, alone)
        assert ("not recorded" in found.engine) != recorded


@pytest.mark.parametrize("method", [METHODS[1], METHODS[3]], ids=str)
def test_each_point_is_the_page_and_the_plain_loop(method):
    several = points(BASE.replace(**method, precision="float64"))
    for point, found in zip(several, run_together(several, Given()), strict=True):
        loop = gl.run(point.replace(execution="loop"), progress=False)
        for other in (gl.by_hand(point), loop.params):
            for name, tensor in found.params.items():
                torch.testing.assert_close(tensor, other[name], rtol=1e-10, atol=1e-12)
        pd.testing.assert_frame_equal(found.history, loop.history, rtol=1e-10)


@pytest.mark.parametrize("server", ["adam", "average"])
def test_servers_may_take_steps_of_different_sizes(server):
    several = points(BASE.replace(server=server), [{"server_lr": lr} for lr in (0.01, 0.1)])
    for point, found in zip(several, run_together(several, Given()), strict=True):
        assert_same(found, gl.run(point, progress=False))


def test_agents_of_one_s_own_of_very_different_sizes():
    rng = np.random.default_rng(0)
    agents = [(x := rng.normal(size=(n, 3)), (x[:, 0] > 0).astype(int)) for n in (4, 5, 6, 40, 41, 400)]
    line = torch.nn.utils.skip_init(torch.nn.Linear, 3, 2)
    torch.nn.init.zeros_(line.weight), torch.nn.init.zeros_(line.bias)
    given = Given(gl.Federation.from_agents(agents, n_new_agents=1), line)
    several = points(BASE.replace(batch_size=None))
    for point, found in zip(several, run_together(several, given), strict=True):
        assert_same(found, gl.run(point, **given.arguments, progress=False))


def test_what_diverges_is_run_alone_and_takes_nobody_along(tmp_path):
    sizes = [{"meta_lr": lr} for lr in (0.05, 1e30, 0.3, 50.0)]
    several = points(BASE.replace(rounds=6), sizes)
    found = run_together(several, Given())
    assert [each is None for each in found] == [False, True, False, True]
    table = gl.sweep(several, cache=tmp_path, history=True, progress=False)
    for point, (_, rows) in zip(several, table.groupby("meta_lr", sort=False), strict=True):
        alone = gl.run(point, progress=False)
        assert rows["status"].unique().tolist() == [alone.status]
        assert rows["message"].unique().tolist() == [alone.message]
        same = rows[list(alone.history)].reset_index(drop=True)
        pd.testing.assert_frame_equal(same, alone.history, check_exact=True)
    for wild in ([1e30, 1e31], [1e30, 1e31, 0.05, 1e32]):  # one that is left begins again, alone
        assert run_together(points(sizes=[{"meta_lr": lr} for lr in wild]), Given()) == [None] * len(wild)
    most = points(sizes=[{"meta_lr": lr} for lr in (1e30, 0.05, 1e31, 1e32, 0.3, 1e33)])
    again = run_together(most, Given())
    assert [each is None for each in again] == [True, False, True, True, False, True]
    for place in (1, 4):
        assert_same(again[place], gl.run(most[place], progress=False))
    before = points(sizes=[{"fine_tune_lr": 1e300}, {"fine_tune_lr": 0.1}])  # when it is scored before training
    assert [each is None for each in run_together(before, Given())] == [True, False]
    base = BASE.replace(**METHODS[-1]).replace(meta_lr=1e-4, rounds=1, eval_every=1, eval_steps=(0, 300))
    scored = points(base, [{"fine_tune_lr": 0.05}, {"fine_tune_lr": 0.02}])  # after 300 steps, though training goes on
    assert [gl.run(point, progress=False).status for point in scored] == ["diverged", "completed"]
    assert [each is None for each in run_together(scored, Given())] == [True, False]


@pytest.fixture
def jobs(monkeypatch):
    """Watch what is computed as one, and what is run alone."""
    done, run, as_one = {"as one": [], "alone": []}, grid.run, grid.run_together

    def watched(several, given):
        found = as_one(several, given)
        done["as one"].append([point for point, each in zip(several, found, strict=True) if each is not None])
        return found

    monkeypatch.setattr(grid, "run_together", watched)
    monkeypatch.setattr(grid, "run", lambda point, **how: done["alone"].append(point) or run(point, **how))
    return done


OTHERS = {
    "another dataset": {"dataset": "sinusoids", "partition": "iid"},
    "another ν": {"nu": 2},
    "no proximal term": {"proximal": 0.0},
    "other rounds": {"rounds": 5},
    "scored otherwise": {"eval_steps": (0, 1)},
}
ALONE = {
    "a loop": ({"execution": "loop"}, []),
    "a median": ({"aggregation": "median"}, []),
    "one agent in a round": ({"agents_per_round": 1}, [[]]),  # which is seen when it is tried
}


@pytest.mark.parametrize("what", [*OTHERS, *ALONE])
def test_what_differs_in_more_is_not_computed_as_one(what, jobs):
    base = BASE.replace(proximal=0.1, rounds=2)
    if what in OTHERS:
        several, tried = [base, base.replace(meta_lr=0.2, **OTHERS[what])], []
    else:
        settings, tried = ALONE[what]
        several = [base.replace(meta_lr=lr, **settings) for lr in (0.1, 0.2)]
    table = gl.sweep(several, progress=False)
    assert table["status"].unique().tolist() == ["completed"]
    assert (jobs["alone"], jobs["as one"]) == (several, tried)


def test_with_nu_0_alpha_is_about_scoring_so_that_one_point_is_trained(jobs, monkeypatch):
    trained, begin = [], together._Together.begin
    monkeypatch.setattr(
        together._Together, "begin", lambda self, lanes: trained.append(len(lanes)) or begin(self, lanes)
    )
    several = [BASE.replace(nu=0, fine_tune_lr=a, meta_lr=b, eval_every=4) for a in (0.1, 0.2) for b in (0.1, 0.2)]
    gl.sweep(several, progress=False)
    gl.sweep(several[::2], progress=False)
    assert (jobs["as one"], jobs["alone"], trained) == ([several, several[::2]], [], [2, 1])
    for found, point in zip(run_together(several, Given()), several, strict=True):
        assert_same(found, gl.run(point, progress=False))


def test_so_large_a_step_gains_nothing_as_one(jobs, monkeypatch):
    largest = BASE.agents_per_round * 64 * 10
    for fit, as_one in ((4, 4), (3, 3), (1, 0)):
        monkeypatch.setattr(together, "LARGEST", (fit + 1) * largest - 1)
        gl.sweep(points(), progress=False)
        assert (jobs["as one"].pop(), jobs["alone"]) == (points()[:as_one], points()[as_one:])
        jobs["alone"].clear()


def test_a_grid_in_whatever_order_is_a_few_jobs(jobs, tmp_path):
    """Of 30 points 24 are one job, and the others another."""
    values = {"meta_lr": np.linspace(0.05, 0.3, 15).tolist(), "seed": [0, 1]}
    seen = []
    table = gl.sweep(values, BASE, cache=tmp_path, on_point=lambda number, _: seen.append(number), progress=False)
    assert sorted(map(len, jobs["as one"])) == [6, 24]
    assert (sorted(seen), jobs["alone"]) == (list(range(30)), [])
    assert table["meta_lr"].tolist() == np.repeat(values["meta_lr"], 2 * 2 * 2).tolist()
    with ThreadPoolExecutor(2) as executor:
        again = gl.sweep(values, BASE, executor=executor, progress=False)
    pd.testing.assert_frame_equal(again, table, check_exact=True)
    jobs["as one"].clear()
    pd.testing.assert_frame_equal(gl.sweep(values, BASE, cache=tmp_path, progress=False), table, check_exact=True)
    assert (jobs["as one"], jobs["alone"]) == ([], [])
    files = sorted(tmp_path.iterdir())
    assert len(files) == 30
    files[0].write_bytes(b"spoiled")
    for path in files[1:4]:
        path.unlink()
    pd.testing.assert_frame_equal(gl.sweep(values, BASE, cache=tmp_path, progress=False), table, check_exact=True)
    assert len(jobs["alone"]) + sum(map(len, jobs["as one"])) == 4


def test_agents_with_batches_of_other_widths_go_by_themselves(monkeypatch):
    """Of one width, or of one federation: a wider batch would add up its samples in another order."""
    made, begin = [], together._Together.begin
    monkeypatch.setattr(together._Together, "begin", lambda self, lanes: made.append(len(lanes)) or begin(self, lanes))
    base = BASE.replace(partition="iid", shots=2, batch_size=None)
    few = [point.replace(seed=seed) for seed in (0, 1) for point in points(base)[:2]]
    spread = [point.replace(size_spread=2.0, shots=None) for point in few]
    several = [*few, *(point.replace(shots=1) for point in few[:2]), *spread]
    for point, found in zip(several, run_together(several, Given()), strict=True):
        assert_same(found, gl.run(point, progress=False))
    assert made == [4, 2, 2, 2]


def test_agents_may_differ_in_how_they_draw_their_batches(monkeypatch):
    made, begin = [], together._Together.begin
    monkeypatch.setattr(together._Together, "begin", lambda self, lanes: made.append(len(lanes)) or begin(self, lanes))
    several = [
        BASE.replace(partition="iid", query=query, seed=seed) for query in gl.federation.QUERIES for seed in (0, 1)
    ]
    for point, found in zip(several, run_together(several, Given()), strict=True):
        assert_same(found, gl.run(point, progress=False))
    assert made == [4]


def test_what_cannot_be_run_says_so_of_each_point():
    few = gl.Federation.from_agents([(torch.ones(4, 2), torch.tensor([0, 1, 0, 1]))] * 2)
    table = gl.sweep({"meta_lr": [0.1, 0.2, -1.0]}, BASE, federation=few, progress=False)
    assert table["status"].tolist() == ["failed"] * 3
    assert table["message"].str.contains("agents_per_round").tolist() == [True, True, False]
    assert "meta_lr" in table["message"].iloc[2]


def test_few_different_numbers_go_together_so_that_few_steps_are_recorded(monkeypatch):
    made, several = [], points(sizes=[{"meta_lr": lr} for lr in np.linspace(0.05, 0.3, 11).tolist()])
    trained = together._trained
    monkeypatch.setattr(together, "_trained", lambda some: made.append(len(some)) or trained(some))
    found = run_together(several, Given())
    assert (made, [each is None for each in found]) == ([8, 3], [False] * 11)
    assert [each.experiment for each in found] == several
    assert run_together(several[:7], Given())[6] is None


def test_ctrl_c_ends_all_points_of_a_job(monkeypatch, tmp_path):
    def pressed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(together, "limit_of", pressed)
    with pytest.raises(KeyboardInterrupt):
        gl.sweep(points(), cache=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_an_own_loss_is_run_point_by_point(jobs):
    def margin(prediction, y):
        return torch.nn.functional.softplus(1 - prediction.gather(1, y[:, None])[:, 0])

    table = gl.sweep(points(), loss=margin, progress=False)
    assert (jobs["as one"], jobs["alone"]) == ([[]], points())
    expected = [gl.run(point, loss=margin, progress=False).history.query("round == 4") for point in points()]
    assert table["loss"].tolist() == pd.concat(expected)["loss"].tolist()


def test_the_engine_says_that_it_is_several_points():
    found = run_together(points(), Given())[0]
    assert found.engine.startswith("vectorized: all picked agents of 4 points at once; ")
    assert dataclasses.replace(found).objective is not None
