"""Worked solutions of the exercises, as functions that run; `gl.exercises.<name>.solution()` shows their source.

A function without parameters returns the answer; one with parameters is the answer.
"""

import numpy as np
import torch

import gmfl_lite as gl


def look_ahead():
    w, losses = 1.0, []
    for _ in range(3):
        losses.append(0.5 * (w - 3) ** 2)
        w = w - 0.5 * (w - 3)  # the gradient of ½(w − 3)² is w − 3
    return losses


def which_nu():
    return {
        "FedAvg": 0,
        "FedAvg with five local steps": 0,  # τ = 5: what training does, not what it looks ahead
        "Per-FedAvg": 1,
        "agents will take four steps": 4,
    }


def effective_classes(counts):
    mix = counts / counts.sum()
    mix = mix[mix > 0]  # 0 · ln 0 counts as 0
    return np.exp(-(mix * np.log(mix)).sum())


def two_averages():
    w, samples = np.array([1.0, 2.0, 6.0]), np.array([10, 30, 60])
    return {"uniform": w.mean(), "samples": (samples * w).sum() / samples.sum()}


def where_fedavg_ends(a, c, meta_lr, local_steps):
    # After τ steps agent i is at c_i + (1 − βa_i)^τ (w − c_i). The average of these is w again where
    # Σ_i s_i (w − c_i) = 0, with s_i the share of its way home that agent i goes in a round:
    share = 1 - (1 - meta_lr * a) ** local_steps
    return (share * c).sum() / share.sum()


def jacobian_product(factors, gradient):
    v = gradient
    for factor in reversed(factors):  # the last factor is the one next to the gradient
        v = factor @ v
    return v


def first_order_length():
    a, fine_tune_lr, nu = 1.0, 0.5, 3
    factor = 1 - fine_tune_lr * a
    first_order = a * factor**nu  # times (w − c): the gradient at w⁽ᵛ⁾
    exact = factor**nu * first_order  # the same, and a factor for every step
    return first_order / exact


def enough_agents():
    n = 24
    return next(m for m in range(1, n + 1) if (n - m) / (m * (n - 1)) <= 0.1)


def which_floor():
    return {
        "ten times the rounds make it ten times lower": "transient",
        "gone with one local step in place of five": "drift",
        "gone when all agents are picked": "sampling",
        "gone when every step uses all of an agent's data": "noise",
        "a smaller step size does not lower it": "bias",
    }


def tipping_nu():
    a, c, fine_tune_lr, nu = np.array([1.0, 0.1]), np.array([1.0, -1.0]), 0.1, 0
    while True:
        weights = a * (1 - fine_tune_lr * a) ** (2 * nu)
        if (weights * c).sum() / weights.sum() < 0:
            return nu
        nu += 1


def undo_truncation():
    wanted = 4  # = (ν + m) / 2
    return {"first-order": 2 * wanted - 0, "two factors kept": 2 * wanted - 2}


def traffic():
    parameters = (28 * 28 * 100 + 100) + (100 * 10 + 10)
    times = 50 * 10 * 2  # rounds, agents picked, there and back
    return {"parameters": parameters, "megabytes": times * 4 * parameters / 1e6}


def fair_comparison():
    base = gl.Experiment(partition="iid", permuted_classes=10)
    return [base.replace(nu=nu, seed=seed) for nu in (0, 3) for seed in (0, 1, 2)]


def cost_of_a_step():
    nu, m = 5, 2
    gradients = nu + 1  # one for each fine-tuning step, and one for the loss after them
    return {
        "exact": (gradients, nu),
        "truncated, two factors kept": (gradients, m),
        "first-order": (gradients, 0),
        "Hessian-free": (gradients + 2 * nu, 0),  # two gradients in place of each product
    }


def truncated_gradient(loss_fn, w, support, query, fine_tune_lr, keep):
    gradient = torch.func.grad(loss_fn)
    points = [w]
    for batch in support:
        points.append(points[-1] - fine_tune_lr * gradient(points[-1], batch))
    v = gradient(points[-1], query)
    for j in reversed(range(len(support) - keep, len(support))):  # the last `keep` steps, backwards
        hessian = torch.func.jacrev(gradient)(points[j], support[j])
        v = v - fine_tune_lr * hessian @ v
    return v


def largest_nu(agents, fine_tune_lr, meta_lr):
    # One local step, all agents: gradient descent on the average meta-loss, which converges while β times its largest
    # curvature is below 2. The curvature may fall before it rises, so look at every ν.
    return max(nu for nu in range(30) if meta_lr * agents.meta_smoothness(nu, fine_tune_lr) < 2)


def one_beats_ten():
    return {"partition": "dirichlet", "dirichlet_alpha": 1.0, "size_spread": 1.0}  # mixed classes, unequal sizes


def proximal_update(loss_fn, params, batches, fine_tune_lr, meta_lr, pull):
    w = params
    for support, query in batches:
        gradient, _ = gl.meta_gradient(loss_fn, w, support, query, fine_tune_lr=fine_tune_lr)
        w = {name: w[name] - meta_lr * (gradient[name] + pull * (w[name] - params[name])) for name in w}
    return w


def server_step(params, updates, server_lr):
    average = gl.aggregate(updates)
    return {name: params[name] + server_lr * (average[name] - params[name]) for name in params}


def price_of_sending():
    # 20 rounds of ν = 3 cost as much as 40 of ν = 1 where 20 · (11.5 + s) = 40 · (4.5 + s).
    return (20 * 11.5 - 40 * 4.5) / (40 - 20)


def crowd():
    students, noise, more_noise = 3, 0.03, 0.3
    return round(students * (more_noise / noise) ** 2)  # the noise of an average of m is z·C/√m


def resumed_sweep():
    points, before = 4 * 2 * 3, 3 * 2 * 2  # all of the first sweep's are in the second
    left, workers, seconds_a_point = points - before, 5, 10
    return {
        "points": points,
        "computed": left,
        "seconds": -(-left // workers) * seconds_a_point,
    }  # rounded up
