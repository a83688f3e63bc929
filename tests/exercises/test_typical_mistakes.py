"""Typical mistakes are told by name, and neither hints nor messages give a solution away."""

import re
import sys
from functools import partial

import numpy as np
import pytest
import torch
from all_exercises import EXERCISES, SLOW, each

import gmfl_lite as gl


def entropy_only(counts):
    mix = counts[counts > 0] / counts.sum()
    return -(mix * np.log(mix)).sum()


def rounds_of_fedavg(rounds, a, c, beta, tau):
    w = 0.0
    for _ in range(rounds):
        w = (c + (1 - beta * a) ** tau * (w - c)).mean()
    return w


def chain(factors, v):
    for factor in reversed(factors):
        v = factor @ v
    return v


def walk(loss_fn, w, support, alpha):
    """All points of the walk, and the Jacobian of every step."""
    points, gradient = [w], torch.func.grad(loss_fn)
    for batch in support:
        points.append(points[-1] - alpha * gradient(points[-1], batch))
    curvature = torch.func.jacrev(gradient)
    return points, [torch.eye(2) - alpha * curvature(w, b) for w, b in zip(points, support, strict=False)], gradient


def truncated(pick, end=lambda points, support, query: (points[-1], query)):
    def answer(loss_fn, w, support, query, fine_tune_lr, keep):
        points, factors, gradient = walk(loss_fn, w, support, fine_tune_lr)
        return chain(pick(factors, keep), gradient(*end(points, support, query)))

    return answer


def in_place(loss_fn, w, support, query, fine_tune_lr, keep):
    for batch in support:
        w -= fine_tune_lr * torch.func.grad(loss_fn)(w, batch)
    return torch.func.grad(loss_fn)(w, query)


def last(factors, keep):
    return factors[len(factors) - keep :]


def proximal(pull_from=lambda w, server: w - server, sign=1.0, factor=1.0, **other):
    def answer(loss_fn, params, batches, fine_tune_lr, meta_lr, pull):
        w = params
        for support, query in batches[: other.get("steps")]:
            support = support if other.get("ahead", True) else []
            gradient, _ = gl.meta_gradient(loss_fn, w, support, query, fine_tune_lr=fine_tune_lr)
            w = {k: w[k] - meta_lr * (gradient[k] + sign * factor * pull * pull_from(w[k], params[k])) for k in w}
        return w

    return answer


def first_failure(agents, fine_tune_lr, meta_lr):
    nu = 0
    while meta_lr * agents.meta_smoothness(nu, fine_tune_lr) < 2:
        nu += 1
    return nu - 1


def until(limit, curvature="meta_smoothness", add=0):
    def answer(agents, fine_tune_lr, meta_lr):
        fitting = [nu for nu in range(20) if meta_lr * getattr(agents, curvature)(nu, fine_tune_lr) <= limit]
        return max(fitting, default=0) + add

    return answer


def server(formula):
    return lambda params, updates, lr: {k: formula(params[k], updates[k].mean(0), lr) for k in params}


ANSWERED = (
    "two_gradients",
    "first_step_of_adam",
    "which_nu",
    "read_the_curve",
    "two_walks",
    "which_floor",
    "traffic",
    "cost_of_a_step",
    "resumed_sweep",
    "whose_rows",
)
right = {name: getattr(gl.exercises, name).answer() for name in ANSWERED}
base = gl.Experiment()
MISTAKES = [
    ("look_ahead", [1, 2, 2.5], "the points"),
    ("look_ahead", [2, 4.5, 10.125], "uphill"),
    ("look_ahead", (0.5, 0.125, 0.03125), "no step"),
    ("look_ahead", [4, 1, 0.25], "½"),
    ("look_ahead", torch.tensor([2.0, 0, 0]), "twice too far"),
    ("look_ahead", [2, 0.5], "shape"),
    ("look_ahead", ["a", "b", "c"], "Numbers"),
    ("look_ahead", [2, float("nan"), 0.125], "NaN"),
    ("which_nu", right["which_nu"] | {"FedAvg": 1, "Per-FedAvg": 2}, "not look ahead at all"),
    ("which_nu", right["which_nu"] | {"FedAvg with five local steps": 5}, "τ = 5"),
    ("which_nu", right["which_nu"] | {"trained for users who take four steps": 5}, "users who take four"),
    ("which_nu", {"FedAvg": 0}, "Keep the names"),
    ("which_nu", [0, 0, 1, 4], "Keep the dict"),
    ("read_the_curve", right["read_the_curve"] | {"nobody fine-tunes": "Q"}, "that number of steps"),
    ("read_the_curve", right["read_the_curve"] | {"everybody takes two steps": "R"}, 'Write "P" or "Q"'),
    ("read_the_curve", right["read_the_curve"] | {"Q is ahead from step": 0}, "left end"),
    ("read_the_curve", right["read_the_curve"] | {"Q is ahead from step": 5}, "much earlier"),
    ("effective_classes", entropy_only, "entropy itself"),
    ("effective_classes", lambda counts: (counts > 0).sum(), "number of classes that are held"),
    ("effective_classes", lambda counts: np.exp(-(counts / counts.sum() * np.log(counts / counts.sum())).sum()), "NaN"),
    ("effective_classes", lambda counts: np.exp(-entropy_only(counts)), "sign"),
    ("effective_classes", lambda counts: np.exp(entropy_only(counts) / np.log(2)), "base 2"),
    ("effective_classes", lambda counts: 1 / ((counts / counts.sum()) ** 2).sum(), "Simpson"),
    ("effective_classes", lambda counts: counts / counts.sum(), "One number"),
    ("two_averages", {"uniform": 4.3, "samples": 3.0}, "other way round"),
    ("two_averages", {"uniform": 9, "samples": 4.3}, "sum"),
    ("two_averages", {"uniform": 3, "samples": 430}, "sum to one"),
    ("two_averages", {"uniform": 3, "samples": 430 / 3}, "not by the number of agents"),
    ("two_walks", right["two_walks"] | {"τ = 1": 1.0}, "their mean"),
    ("two_walks", right["two_walks"] | {"τ = 1": 0.0}, "half as steep"),
    ("two_walks", right["two_walks"] | {"τ = 2": 1.0}, "has reached"),
    ("two_walks", right["two_walks"] | {"τ = 2": 0.8125}, "walk twice"),
    ("where_fedavg_ends", lambda a, c, beta, tau: (a * c).sum() / a.sum(), "τ = 1 only"),
    ("where_fedavg_ends", lambda a, c, beta, tau: c.mean(), "infinity"),
    ("where_fedavg_ends", lambda a, c, beta, tau: np.average(c, weights=(1 - beta * a) ** tau), "left"),
    ("where_fedavg_ends", lambda a, c, beta, tau: (c - (1 - beta * a) ** tau * c).mean(), "one round"),
    ("where_fedavg_ends", partial(rounds_of_fedavg, 3), "3 rounds from w = 0 lead. There w still moves"),
    ("where_fedavg_ends", lambda a, c, beta, tau: c, "One number"),
    ("one_step_ahead", 0.729, "without the factor"),
    ("one_step_ahead", 0.5518, "*starts*"),
    ("one_step_ahead", 0.9477, "*minus*"),
    ("one_step_ahead", 0.7, "after the step"),
    ("one_step_ahead", 0.164025, "its derivative"),
    ("jacobian_product", lambda factors, g: chain(factors[::-1], g), "reverse order"),
    ("jacobian_product", lambda factors, g: chain([torch.stack(factors).prod(0)] if factors else [], g), "`@`"),
    ("jacobian_product", lambda factors, g: g, "no factor"),
    ("jacobian_product", lambda factors, g: chain(factors, torch.eye(2)), "gradient is missing"),
    ("jacobian_product", lambda factors, g: chain(factors, g)[None], "shape (1, 2)"),
    ("jacobian_product", lambda factors, g: chain(factors[:-1] or factors, g), "last factor"),
    ("jacobian_product", lambda factors, g: chain(factors[1:] or factors, g), "first factor"),
    ("jacobian_product", lambda factors, g: factors[0] @ chain(factors[1:], g), "IndexError"),
    ("jacobian_product", lambda factors, g: -chain(factors, g), "opposite sign"),
    ("first_order_length", 1 / 8, "Upside down"),
    ("first_order_length", 64, "shorter, too"),
    ("first_order_length", 4, "One factor is missing"),
    ("first_order_length", "eight", "Numbers"),
    ("enough_agents", 10, "*with* replacement"),
    ("enough_agents", 7, "a little more"),
    ("enough_agents", 7.2727, "round up"),
    ("enough_agents", 12, "half"),
    ("enough_agents", 3, "too small"),
    ("which_floor", right["which_floor"] | {"gone when all agents are picked": "noise"}, "is not noise"),
    ("which_floor", right["which_floor"] | {"gone when all agents are picked": "variance"}, "no term"),
    ("look_ahead", [2, 1, 0.5], "halves the *distance*"),
    ("two_walks", {"τ = 1": 0.75, "τ = 2": 0.625}, "not ¼(w + 4)"),
    ("two_walks", {"τ = 1": 0.5, "τ = 2": 1.03125}, "not ¼(w + 4)"),
    ("fair_beta", 0.625, "FedAvg's 1 / L_F"),
    ("fair_beta", 0.8, "the fraction"),
    ("tipping_nu", 12, "Almost"),
    ("tipping_nu", 25, "square"),
    ("tipping_nu", 24, "square"),
    ("tipping_nu", 12.08, "round up"),
    ("tipping_nu", 2, "α = 0.5"),
    ("tipping_nu", 40, "too large"),
    ("undo_truncation", {"first-order": 2, "two factors kept": 6}, "wrong way"),
    ("undo_truncation", {"first-order": 4, "two factors kept": 6}, "train for 2"),
    ("undo_truncation", {"first-order": 8, "two factors kept": 8}, "The two factors count"),
    ("fair_beta", 0.025, "Upside down"),
    ("fair_beta", 0.5, "too short"),
    ("fair_beta", 12.5, "the same part"),
    ("fair_beta", 20, "times flatter"),
    ("fair_comparison", [base.replace(nu=nu) for nu in (0, 3)], "luck"),
    ("fair_comparison", [base.replace(nu=nu, seed=nu + s) for nu in (0, 3) for s in range(3)], "Pair them"),
    ("fair_comparison", [base.replace(nu=nu, seed=s, rounds=9 + nu) for nu in (0, 3) for s in range(3)], "rounds"),
    ("fair_comparison", [base.replace(nu=nu, seed=s) for nu in (1, 3) for s in range(3)], "FedAvg is missing"),
    ("fair_comparison", [0, 3], "list of `gl.Experiment`s"),
    ("fair_comparison", [base.replace(nu=nu, seed=s) for nu in (0, 3, 3) for s in range(3)], "twice"),
    ("traffic", right["traffic"] | {"parameters": 79400}, "biases"),
    ("traffic", right["traffic"] | {"parameters": 78500}, "first layer alone"),
    ("traffic", right["traffic"] | {"parameters": 68270}, "one hidden layer"),
    ("traffic", right["traffic"] | {"megabytes": 159.02}, "one way"),
    ("traffic", right["traffic"] | {"megabytes": 79.51}, "four bytes"),
    ("traffic", right["traffic"] | {"megabytes": 6.3608}, "one round"),
    ("traffic", right["traffic"] | {"megabytes": 31.804}, "one agent"),
    ("traffic", right["traffic"] | {"megabytes": 1908.24}, "10, not 60"),
    ("traffic", right["traffic"] | {"megabytes": 318040000}, "These are bytes"),
    ("price_of_sending", 50, "rounds of sending does it save"),
    ("price_of_sending", 0.4, "Upside down"),
    ("price_of_sending", 7, "*one* round"),
    ("price_of_sending", 11.5 / 4.5, "as a ratio"),
    ("price_of_sending", -2.5, "sign"),
    ("price_of_sending", 0, "free"),
    ("price_of_sending", 3, "too large"),
    ("crowd", 30, "1/√m"),
    ("crowd", 100, "three students"),
    ("crowd", 10, "how many times as strong"),
    ("crowd", 9.4868, "the other way"),
    ("crowd", 200, "too small"),
    ("resumed_sweep", right["resumed_sweep"] | {"points": 9}, "multiplied"),
    ("resumed_sweep", right["resumed_sweep"] | {"points": 12}, "first sweep"),
    ("resumed_sweep", right["resumed_sweep"] | {"computed": 24}, "no cache"),
    ("resumed_sweep", right["resumed_sweep"] | {"computed": 6}, "Only half"),
    ("resumed_sweep", right["resumed_sweep"] | {"computed": 10}, "*every* seed"),
    ("resumed_sweep", right["resumed_sweep"] | {"seconds": 24}, "the busiest one"),
    ("resumed_sweep", right["resumed_sweep"] | {"seconds": 120}, "one worker"),
    ("two_gradients", right["two_gradients"] | {"same sample": -1}, "at w = 0 itself"),
    ("two_gradients", right["two_gradients"] | {"same sample": -0.25}, "How much does that point move"),
    ("two_gradients", right["two_gradients"] | {"same sample": 0.0625}, "sign"),
    ("two_gradients", right["two_gradients"] | {"another sample": -2.25}, "How much does that point move"),
    ("two_gradients", right["two_gradients"] | {"another sample": -0.0625}, "another one is the query"),
    ("two_gradients", right["two_gradients"] | {"another sample": -0.1875}, "towards the support's"),
    ("two_halves", lambda labels: (np.arange(1), np.arange(1, len(labels))), "one more"),
    ("two_halves", lambda labels: np.split(np.arange(len(labels)), [(len(labels) + 1) // 2]), "Cut the classes"),
    ("two_halves", lambda labels: (np.arange(len(labels)), np.arange(len(labels))), "in both halves"),
    ("two_halves", lambda labels: (np.arange(0, len(labels) - 1, 2), np.arange(1, len(labels) - 1, 2)), "belongs to"),
    ("two_halves", lambda labels: np.argsort(labels), "Return a pair"),
    ("two_halves", lambda labels: (labels[0::2], labels[1::2]), "in both halves"),
    ("first_step_of_adam", right["first_step_of_adam"] | {"0.2 away": 0.002}, "a server that averages"),
    ("first_step_of_adam", {"0.2 away": 0.01, "0.004 away": 0.01}, "what ε does"),
    ("first_step_of_adam", right["first_step_of_adam"] | {"0.004 away": 0.01 * 0.0004 / 0.0014}, "begin at zero"),
    ("first_step_of_adam", right["first_step_of_adam"] | {"0.2 away": 0.2}, "all the way"),
    ("one_loss_a_sample", lambda prediction, y: (prediction - y).abs().mean(), "whole batch"),
    ("one_loss_a_sample", lambda prediction, y: (prediction - y).abs().sum(1), "three times"),
    ("one_loss_a_sample", lambda prediction, y: (prediction - y).square().mean(1), "squares"),
    ("one_loss_a_sample", lambda prediction, y: (prediction - y).mean(1), "cancel"),
    ("one_loss_a_sample", lambda prediction, y: (prediction - y).abs(), "one number per sample"),
    ("one_loss_a_sample", lambda prediction, y: (prediction - y).abs().mean(1).tolist(), "Return a tensor"),
    ("whose_rows", right["whose_rows"] | {"trained on": 360}, "never trained on"),
    ("whose_rows", right["whose_rows"] | {"a new person fine-tunes on": 0}, "do fine-tune"),
    ("whose_rows", right["whose_rows"] | {"new people are scored on": 10}, "one of them"),
    ("cost_of_a_step", right["cost_of_a_step"] | {"exact": (5, 5)}, "one short"),
    ("cost_of_a_step", right["cost_of_a_step"] | {"exact": (6, 6)}, "none for the loss at the end"),
    ("cost_of_a_step", right["cost_of_a_step"] | {"Hessian-free": (11, 0)}, "two sides"),
    ("cost_of_a_step", right["cost_of_a_step"] | {"Hessian-free": (6, 5)}, "two each"),
    ("cost_of_a_step", right["cost_of_a_step"] | {"first-order": 6}, "pair"),
    ("truncated_gradient", truncated(lambda factors, keep: factors[:keep]), "*first* steps"),
    ("truncated_gradient", truncated(lambda factors, keep: factors[-keep:]), "All factors"),
    ("truncated_gradient", truncated(lambda factors, keep: factors), "All factors"),
    ("truncated_gradient", truncated(lambda factors, keep: []), "No factor"),
    ("truncated_gradient", truncated(lambda factors, keep: last(factors, min(keep + 1, len(factors)))), "too many"),
    ("truncated_gradient", truncated(lambda factors, keep: last(factors, keep)[::-1]), "wrong order"),
    ("truncated_gradient", truncated(lambda ms, keep: [2 * torch.eye(2) - m for m in last(ms, keep)]), "*minus*"),
    ("truncated_gradient", truncated(last, lambda points, support, query: (points[-1], support[-1])), "on `query`"),
    ("truncated_gradient", truncated(last, lambda points, support, query: (points[0], query)), "end of the walk"),
    ("truncated_gradient", in_place, "changes the w"),
    ("truncated_gradient", lambda *given: (truncated(last)(*given), 0.0), "alone"),
    ("largest_nu", first_failure, "first failure"),
    ("largest_nu", until(2, add=1), "first ν that diverges"),
    ("largest_nu", until(1.0), "to be safe"),
    ("largest_nu", until(2, "largest_meta_smoothness"), "*average*"),
    ("largest_nu", lambda agents, fine_tune_lr, meta_lr: 30, "too large"),
    ("one_beats_ten", {"nu": 1}, "other means"),
    ("one_beats_ten", {"dirichlet_aplha": 1.0}, "did you mean 'dirichlet_alpha'"),
    ("one_beats_ten", {"dirichlet_alpha": -1.0}, "above 0"),
    ("one_beats_ten", "iid", "dict of settings"),
    ("proximal_update", proximal(lambda w, server: w - w), "Keep the w that the server sent"),
    ("proximal_update", proximal(sign=-1), "away from the server"),
    ("proximal_update", proximal(factor=2), "twice too strong"),
    ("proximal_update", proximal(lambda w, server: w), "towards zero"),
    ("proximal_update", proximal(steps=1), "Only one local step"),
    ("proximal_update", proximal(ahead=False), "not look ahead"),
    ("proximal_update", lambda *given: (proximal()(*given), None), "pair"),
    ("server_step", server(lambda w, mean, lr: mean), "server_lr is ignored"),
    ("server_step", server(lambda w, mean, lr: mean + lr * (w - mean)), "other way round"),
    ("server_step", server(lambda w, mean, lr: w - lr * (mean - w)), "away from the agents"),
    ("server_step", server(lambda w, mean, lr: lr * mean), "starts from zero"),
    ("server_step", server(lambda w, mean, lr: w + lr * mean), "difference"),
    ("server_step", lambda params, updates, lr: updates, "shape"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "says"), MISTAKES, ids=[f"{name}-{says}" for name, _, says in MISTAKES])
def test_a_typical_mistake_is_told_by_name(name, answer, says):
    exercise = getattr(gl.exercises, name)
    verdict = exercise.check(answer)
    assert verdict.status == "incorrect"
    assert says in verdict.text
    assert exercise.status == "incorrect"


def test_every_exercise_has_a_typical_mistake():
    assert {name for name, _, _ in MISTAKES} == {one.name for one in EXERCISES}


@pytest.mark.slow
def test_a_partition_that_loses_is_told_by_how_much():
    verdict = gl.exercises.one_beats_ten.check({})
    assert verdict.status == "incorrect"
    assert re.search(r"[-+]\d+\.\d, [-+]\d+\.\d, [-+]\d+\.\d points", verdict.text)


@each
def test_hints_and_messages_do_not_give_the_solution_away(exercise):
    lines = {line.split("#")[0].strip() for line in exercise.solution().text.splitlines()[2:-1]}
    said = exercise.hint().text + " ".join(
        exercise.check(answer).text for name, answer, _ in MISTAKES if name == exercise.name and name not in SLOW
    )
    assert not [line for line in lines if len(line) > 8 and line in said]
    if not exercise.wants_function and exercise.name not in SLOW | {"fair_comparison"}:
        answer = exercise.answer()
        values = answer.values() if isinstance(answer, dict) else answer if isinstance(answer, list) else [answer]
        written = re.findall(r"[\d.]+", exercise.hint().text)
        assert not [value for value in values if isinstance(value, float) and f"{value:g}" in written]


@pytest.mark.parametrize("seeds", [3, 5])
def test_more_seeds_than_asked_for_are_as_fair(seeds):
    pairs = [base.replace(nu=nu, seed=seed) for nu in (0, 3) for seed in range(seeds)]
    assert gl.exercises.fair_comparison.check(pairs).status == "correct"
    assert "twice" in gl.exercises.fair_comparison.check([*pairs, pairs[0]]).text


def test_a_comparison_of_other_agents_than_the_notebooks(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "base", base.replace(n_agents=30, nu=7), raising=False)
    pairs = [base.replace(nu=nu, seed=seed) for nu in (0, 3) for seed in range(3)]
    assert "another n_agents." in gl.exercises.fair_comparison.check(pairs).text
    assert gl.exercises.fair_comparison.check([one.replace(n_agents=30) for one in pairs]).status == "correct"
