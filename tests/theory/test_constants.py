"""Lemmas 1–4 against the library's own fine-tuning and meta-gradients, on random agents and on the worst ones.

Each statement is a list of ratios, left side over right side. All must be at most 1; and the largest must be so large
that the bound divided by the factor beside it is violated, so that no test passes for a bound that is too generous.
"""

import functools

import numpy as np
import pytest
import torch
from theory_instances import (
    apart,
    concave,
    largest_gradient,
    one_dimensional,
    quadratics,
    random_quadratics,
    ridge,
    rms,
    spread,
)

import gmfl_lite as gl
from gmfl_lite import theory

GENERIC = ("smoothness",)
GROWTH = ("a", "b", "c", "d", "e", "e at the start")
REFINED = ("smoothness", "negative_curvature")


def random_instances(seed, count, nus=(1, 2, 5), largest_lr=1.5):
    """Quadratics, cosines, ln cosh and mixtures, each with ν, α and a point w."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        agents = [
            lambda: random_quadratics(rng, low=0.02),
            lambda: random_quadratics(rng, low=-0.5),
            lambda: random_quadratics(rng, low=-1.0),
            lambda: ridge(rng, cosines=4),
            lambda: ridge(rng, cosines=1),
            lambda: ridge(rng, cosines=0),
        ][number % 6]()
        alpha = rng.uniform(0.1, largest_lr) / agents.smoothness
        yield agents, int(rng.choice(nus)), alpha, rng.normal(size=3), rng


def factors(agents, w, steps, lr):
    """The agents' products (I − αH_i(w_i⁽ʲ⁾)) over j in `steps`, left to right [n, d, d]."""
    d = np.shape(w)[-1]
    product = np.eye(d)
    for j in steps:
        product = product @ (np.eye(d) - lr * agents.hessians(agents.tuned(w, j, lr)))
    return np.broadcast_to(product, (agents.n, d, d))


def growth_ratios(instances, known=REFINED):
    """The ratios of Lemma 1, statement by statement."""
    found = {statement: [] for statement in GROWTH}
    for agents, j, alpha, w, rng in instances:
        q = theory.growth(alpha, **agents.known(*known))
        u = w + rng.normal(size=w.shape)
        start = np.linalg.norm(agents.gradients(w), axis=1)
        moved, end = agents.tuned(w, j, alpha), np.linalg.norm(agents.gradients(agents.tuned(w, j, alpha)), axis=1)
        length, meta = np.linalg.norm(moved - w, axis=1), np.linalg.norm(agents.meta_gradients(w, j, alpha), axis=1)
        ratios = {
            "a": np.linalg.norm(moved - agents.tuned(u, j, alpha), axis=1) / (q**j * np.linalg.norm(w - u)),
            "b": end / (q**j * start),
            "c": length / (alpha * theory.geometric_sum(q, j) * start),
            "d": np.linalg.norm(factors(agents, w, range(j), alpha), 2, axis=(1, 2)) / q**j,
            "e": meta / (q**j * end),
            "e at the start": meta / (q ** (2 * j) * start),
        }
        for statement, values in ratios.items():
            found[statement].append(values.max())
    return found


@functools.cache
def growth_random():
    found, high = growth_ratios(random_instances(1, 36)), growth_ratios(random_instances(12, 6, largest_lr=3.0))
    return {statement: values + high[statement] for statement, values in found.items()}


@functools.cache
def growth_concave():
    rng = np.random.default_rng(2)
    return growth_ratios([(concave(), 3, 0.7, np.array([0.2]), rng)], GENERIC)


def smoothness_ratios(instances, bound, known):
    """‖∇F_i(w) − ∇F_i(u)‖ / ‖w − u‖ for random u near and far, and ‖∇²F_i(w)‖, over the bound."""
    found = []
    for agents, nu, alpha, w, rng in instances:
        B = agents.gradient_bound if agents.hessian_lipschitz else 0.0
        setting = agents.known("hessian_lipschitz", *known) | {"gradient_bound": B}
        limit = bound(nu, alpha, **setting)
        for length in (1e-3, 1.0):
            u = w + length * rng.normal(size=w.shape)
            change = agents.meta_gradients(w, nu, alpha) - agents.meta_gradients(u, nu, alpha)
            found.append(np.linalg.norm(change, axis=1).max() / np.linalg.norm(w - u) / limit)
        found.append(np.linalg.norm(agents.meta_hessians(w, nu, alpha), 2, axis=(1, 2)).max() / limit)
    return found


def smoothness_generic_random():
    return smoothness_ratios(random_instances(3, 36), theory.meta_smoothness, GENERIC)


def smoothness_refined_random():
    return smoothness_ratios(random_instances(4, 36), theory.meta_smoothness, REFINED)


def smoothness_spectral_random():
    return smoothness_ratios(random_instances(5, 36), theory.spectral_smoothness, REFINED)


def smoothness_concave():
    rng = np.random.default_rng(6)
    instances = [(concave(), nu, 0.7, np.array([0.2]), rng) for nu in (0, 1, 5)]
    return smoothness_ratios(instances, theory.meta_smoothness, GENERIC)


def cubic(alpha, g=-1e4, h=1.0, k=1.0):
    """f = g w − h w²/2 − k w³/6 near 0, where every term of L_F is attained as α → 0 with αkg = −h."""
    return one_dimensional(lambda w, g: g * w - h * w**2 / 2 - k * w**3 / 6, [g], hessian_lipschitz=k)


def cubic_ratio(rho_term=1.0, alpha=1e-4, length=1e-6):
    agents, w, u = cubic(alpha), np.zeros(1), np.full(1, length)
    points = [agents.tuned(v, j, alpha) for v in (w, u) for j in (0, 1)]
    L = max(np.abs(agents.hessians(point)).max() for point in points)
    B = min(largest_gradient(agents, v, 1, alpha) for v in (w, u))
    limit = theory.meta_smoothness(1, alpha, smoothness=L, hessian_lipschitz=rho_term, gradient_bound=B)
    change = agents.meta_gradients(w, 1, alpha) - agents.meta_gradients(u, 1, alpha)
    return np.abs(change).max() / length / limit


def smoothness_cubic():
    return [cubic_ratio()]


def truncated_smoothness_ratios(instances, known=REFINED):
    found = []
    for agents, nu, alpha, w, rng in instances:
        B = agents.gradient_bound if agents.hessian_lipschitz else 0.0
        setting = agents.known("hessian_lipschitz", *known) | {"gradient_bound": B}
        u = w + 0.1 * rng.normal(size=w.shape)
        for m in range(nu + 1):
            change = np.subtract(
                *(agents.meta_gradients(v, nu, alpha, method="truncated", backprop_steps=m) for v in (w, u))
            )
            limit = theory.truncated_smoothness(nu, m, alpha, **setting)
            found.append(np.linalg.norm(change, axis=1).max() / np.linalg.norm(w - u) / limit)
    return found


def truncated_smoothness_random():
    return truncated_smoothness_ratios(random_instances(7, 24))


def truncated_smoothness_concave():
    rng = np.random.default_rng(8)
    return truncated_smoothness_ratios([(concave(), 4, 0.7, np.array([0.2]), rng)], GENERIC)


def heterogeneity_ratio(agents, nu, alpha, w, known=REFINED, halved=None):
    """Lemma 3 with γ_G and γ_H measured at the points of gradient descent on the average loss."""
    points = [agents.average_tuned(w, j, alpha) for j in range(nu + 1)]
    setting = agents.known("hessian_lipschitz", *known) | {
        "gradient_heterogeneity": max(rms(apart(agents.gradients(point))) for point in points),
        "hessian_heterogeneity": max(spread(apart(agents.hessians(point))) for point in points),
        "gradient_bound": np.linalg.norm(agents.gradients(points[-1]).mean(0)),
    }
    if halved:
        setting[halved] /= 2
    return rms(apart(agents.meta_gradients(w, nu, alpha))) / theory.meta_heterogeneity(nu, alpha, **setting)


def heterogeneity_random():
    return [heterogeneity_ratio(*instance[:4]) for instance in random_instances(9, 48)]


def only_gradients_differ():
    """Two concave agents with opposite gradients: the first term alone, attained."""
    return concave((1.0, -1.0)), 3, 0.7, np.zeros(1)


def only_hessians_differ():
    """f_i = −w ± a (1 − cos(2πw/α)): equal gradients at every point that fine-tuning visits, Hessians apart by γ_H."""
    alpha, gamma_H = 0.5, 1e-3
    k = 2 * np.pi / alpha

    def loss(w, sign):
        return -w + sign * gamma_H / k**2 * (1 - torch.cos(k * w))

    agents = one_dimensional(loss, [1.0, -1.0], smoothness=gamma_H, negative_curvature=gamma_H)
    agents.hessian_lipschitz = gamma_H * k
    return agents, 4, alpha, np.zeros(1)


def hessians_differ_where_gradients_lead():
    """f_i = −(1 + L/k ± γ) w + L sin(kw)/k², k = 2π/α: one Hessian function, met at points where it changes fastest."""
    alpha, L, gamma = 0.5, 0.06, 1e-5
    k = 2 * np.pi / alpha
    slopes = [1 + L / k + gamma, 1 + L / k - gamma]
    agents = one_dimensional(lambda w, slope: -slope * w + L / k**2 * torch.sin(k * w), slopes, smoothness=L)
    agents.negative_curvature, agents.hessian_lipschitz = L, L * k
    return agents, 4, alpha, np.zeros(1)


def heterogeneity_gradients():
    return [heterogeneity_ratio(*only_gradients_differ(), known=GENERIC)]


def heterogeneity_hessians():
    return [heterogeneity_ratio(*only_hessians_differ())]


def heterogeneity_paths():
    return [heterogeneity_ratio(*hessians_differ_where_gradients_lead())]


def truncation_ratios(instances, known=REFINED):
    """The two ratios of Lemma 4 for truncated gradients: error over b_m, and over the factor times the gradient."""
    found = {"b_m": [], "factor": []}
    for agents, nu, alpha, w, _ in instances:
        exact, B = agents.meta_gradients(w, nu, alpha), largest_gradient(agents, w, nu, alpha)
        for m in range(nu):
            kept = agents.meta_gradients(w, nu, alpha, method="truncated", backprop_steps=m)
            error = np.linalg.norm(exact - kept, axis=1)
            known_here = agents.known(*known)
            found["b_m"].append(error.max() / theory.truncation_bias(nu, m, alpha, gradient_bound=B, **known_here))
            factor = theory.truncation_factor(nu, m, alpha, **known_here)
            found["factor"].append((error / (factor * np.linalg.norm(kept, axis=1))).max())
    return found


@functools.cache
def truncation_random():
    return truncation_ratios(random_instances(10, 36))


@functools.cache
def truncation_concave():
    return truncation_ratios([(concave(), 4, 0.7, np.array([0.2]), None)], GENERIC)


def hessian_free_ratio(agents, nu, alpha, w, delta, known=REFINED):
    error = agents.meta_gradients(w, nu, alpha) - agents.meta_gradients(
        w, nu, alpha, method="hessian_free", delta=delta
    )
    # The library's step is relative: its length is delta (1 + ‖w⁽ʲ⁾‖).
    length = delta * (1 + max(np.linalg.norm(agents.tuned(w, j, alpha), axis=1).max() for j in range(nu)))
    B = largest_gradient(agents, w, nu, alpha)
    limit = theory.hessian_free_bias(nu, length, alpha, gradient_bound=B, **agents.known("hessian_lipschitz", *known))
    return np.linalg.norm(error, axis=1).max() / limit


def hessian_free_random():
    rng = np.random.default_rng(11)
    found = []
    for number in range(48):
        agents = ridge(rng, cosines=number % 5)
        alpha = rng.uniform(0.1, 1.5) / agents.smoothness
        setting = agents, int(rng.integers(1, 6)), alpha, rng.normal(size=3)
        found.append(hessian_free_ratio(*setting, delta=10 ** rng.uniform(-1, 0.5)))
    return found


def kink():
    """f = w + |w|³/6 at w = 0: the third derivative jumps where the difference is taken."""
    return one_dimensional(lambda w, g: g * w + w.abs() ** 3 / 6, [1.0], smoothness=0.5, hessian_lipschitz=1.0)


def hessian_free_kink():
    return [hessian_free_ratio(kink(), 1, 0.5, np.zeros(1), delta=0.1)]


def statements(ratios, breaks_at):
    """One case for each statement: a loose one does not hide behind the others."""
    for name in GROWTH if ratios.__name__.startswith("growth") else ("b_m", "factor"):
        yield pytest.param(lambda name=name: ratios()[name], breaks_at, id=f"{ratios.__name__} {name}")


@pytest.mark.parametrize(
    ("ratios", "breaks_at"),
    [
        *statements(growth_random, 1.01),
        *statements(growth_concave, 1.01),
        (smoothness_generic_random, 2),
        (smoothness_refined_random, 1.1),
        (smoothness_spectral_random, 1.01),
        (smoothness_concave, 1.01),
        (smoothness_cubic, 1.01),
        (truncated_smoothness_random, 1.5),
        (truncated_smoothness_concave, 1.01),
        (heterogeneity_random, 1.5),
        (heterogeneity_gradients, 1.01),
        (heterogeneity_hessians, 1.01),
        (heterogeneity_paths, 1.5),
        *statements(truncation_random, 1.01),
        *statements(truncation_concave, 1.01),
        (hessian_free_random, 5),
        (hessian_free_kink, 1.01),
    ],
)
def test_lemma_holds_and_fails_when_divided(ratios, breaks_at):
    worst = np.max(ratios())
    assert worst <= 1 + 1e-7
    assert worst * breaks_at > 1


@pytest.mark.parametrize(
    ("instance", "constant"),
    [
        (only_gradients_differ, "gradient_heterogeneity"),
        (only_hessians_differ, "hessian_heterogeneity"),
        (hessians_differ_where_gradients_lead, "hessian_lipschitz"),
        (hessians_differ_where_gradients_lead, "gradient_bound"),
    ],
)
def test_meta_heterogeneity_needs_each_of_its_terms(instance, constant):
    assert heterogeneity_ratio(*instance()) <= 1
    assert heterogeneity_ratio(*instance(), halved=constant) > 1.1


def test_half_the_second_term_of_the_meta_smoothness_is_refuted():
    assert cubic_ratio(rho_term=0.5) > 1.1


@pytest.mark.parametrize("nu", [1, 2, 3, 7])
def test_reversing_the_factors_is_another_gradient(nu, rng):
    """Hessians along a trajectory do not commute: their order is part of the formula."""
    agents, w, alpha = ridge(rng), rng.normal(size=3), 0.5
    Jacobian, end = factors(agents, w, range(nu), alpha), agents.gradients(agents.tuned(w, nu, alpha))
    found = agents.meta_gradients(w, nu, alpha)
    np.testing.assert_allclose(np.einsum("nij,nj->ni", Jacobian, end), found, atol=1e-12)
    reversed_order = np.einsum("nji,nj->ni", Jacobian, end)
    assert nu == 1 or np.abs(reversed_order - found).max() > 1e-4


def test_hessian_free_is_exact_for_quadratics_as_its_bias_says(rng):
    agents = random_quadratics(rng)
    difference = agents.meta_gradients(np.ones(3), 3, 0.5) - agents.meta_gradients(
        np.ones(3), 3, 0.5, method="hessian_free", delta=1.0
    )
    assert np.abs(difference).max() < 1e-12
    assert theory.hessian_free_bias(3, 1.0, 0.5, hessian_lipschitz=0.0, smoothness=1.0, gradient_bound=1.0) == 0


@pytest.mark.parametrize("q", [0.0, 0.3, 1 - 1e-13, 1.0, 1 + 1e-9, 2.5])
def test_geometric_sum(q):
    ks = [0, 1, 2, 7, 40]
    assert theory.geometric_sum(q, ks) == pytest.approx([sum(q**j for j in range(k)) for k in ks], rel=1e-12)


@pytest.mark.parametrize("negative_curvature", [None, 1.0, 0.3, 0.0, -0.1])
@pytest.mark.parametrize("nu", [0, 1, 2, 5, 50])
def test_the_largest_safe_fine_tune_lr_doubles_and_no_more(nu, negative_curvature):
    known = {"smoothness": 2.0, "negative_curvature": negative_curvature and 2 * negative_curvature}
    alpha = theory.largest_safe_fine_tune_lr(nu, *known.values())
    assert alpha <= 1  # 2/L
    stretched = theory.growth(alpha, **known) ** max(nu, 1)
    assert stretched <= 2 * (1 + 1e-12)
    assert stretched == pytest.approx(2) or alpha == 1
    B, rho = 3.0, 5.0
    limit = theory.meta_smoothness(max(nu, 1), alpha, hessian_lipschitz=rho, gradient_bound=B, **known)
    if negative_curvature in (None, 1.0):
        assert limit <= 4 * 2 + 2 * rho * B / 2 + 1e-9
        assert limit >= 4 * 2


def test_the_largest_safe_fine_tune_lr_is_the_table():
    table = {1: 1, 2: 0.414, 3: 0.260, 5: 0.149, 10: 0.0718, 20: 0.0353, 50: 0.0140}
    assert theory.largest_safe_fine_tune_lr(list(table), 1.0) == pytest.approx(list(table.values()), abs=6e-4)
    assert theory.largest_safe_fine_tune_lr(20, 2.0) == pytest.approx(0.0353 / 2, abs=5e-5)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("exact", {"recompute": True}),
        ("truncated", {"recompute": True, "backprop_steps": 2}),
        ("first_order", {}),
        ("hessian_free", {}),
        ("hessian_free", {"backprop_steps": 2}),
    ],
)
def test_costs_are_what_the_library_evaluates(method, options):
    calls = []

    def loss_fn(params, batch):
        calls.append(batch)
        return 0.5 * (params["w"] ** 2).sum()

    gl.meta_gradient(loss_fn, {"w": torch.ones(1)}, [None] * 5, None, fine_tune_lr=0.1, method=method, **options)
    kept = options.get("backprop_steps")
    assert theory.meta_gradient_cost(5, method, backprop_steps=kept, hvp_cost=1) == len(calls)


def test_constants_of_a_convex_loss_do_not_explode():
    known = {"smoothness": 1.0, "negative_curvature": 0.0}
    assert theory.meta_smoothness(1000, 2.0, **known) == 1
    nus = np.array([1, 10, 100])
    assert (theory.spectral_smoothness(nus, 1.0, **known) <= 1 / (2 * np.e * nus)).all()
    heterogeneity = theory.meta_heterogeneity(
        10,
        0.5,
        gradient_heterogeneity=2.0,
        hessian_heterogeneity=3.0,
        hessian_lipschitz=4.0,
        gradient_bound=5.0,
        **known,
    )
    polynomial = (1 + 0.5 * 10) * 2 + 0.5 * 5 * 10 * 3 + 0.5**2 * 4 * 5 * 2 * 10 * 9 / 2
    assert heterogeneity == pytest.approx(polynomial)


def test_a_zero_stays_zero_beside_what_float64_does_not_hold():
    known = {"smoothness": 1.0, "gradient_bound": 1.0}
    assert theory.truncation_bias(5000, [4999, 5000], 1.0, **known).tolist() == [np.inf, 0]
    assert theory.truncation_bias(5000, 0, 1.0, smoothness=1.0, gradient_bound=0.0) == 0
    assert theory.hessian_free_bias(5000, 0.1, 1.0, hessian_lipschitz=0.0, **known) == 0
    assert theory.meta_heterogeneity([1, 2000], 1.0, smoothness=1, gradient_heterogeneity=0.5).tolist() == [2, np.inf]
    few = {"hessian_lipschitz": 0.25, "hessian_heterogeneity": 0.5, "gradient_heterogeneity": 0.5, **known}
    assert theory.meta_heterogeneity([2, 2000], 1.0, **few)[0] == theory.meta_heterogeneity(2, 1.0, **few) < np.inf
    assert theory.meta_heterogeneity(2000, 1.0, gradient_heterogeneity=0.0, **known) == 0
    convex = {"smoothness": 1.0, "negative_curvature": 0.0}  # α = 2.2/L, so that q = 1.2
    assert theory.meta_smoothness(1946, 2.2, **convex) == pytest.approx(1.2**3892, rel=1e-9)
    assert theory.spectral_smoothness(1900, 2.2, **convex) == pytest.approx(1.2**3800, rel=1e-9)


def test_the_truncation_factor_has_two_limits():
    """Convex, α = 2/L: an odd number of dropped factors is −1, at most 2 away from 1 however many they are."""
    known, agents = {"smoothness": 1.0, "negative_curvature": 0.0}, quadratics([[[1.0]]], [[0.0]])
    exact, kept = (agents.meta_gradients(np.ones(1), 9, 2.0, method=m) for m in ("exact", "first_order"))
    assert np.abs(exact - kept) == theory.truncation_factor(9, 0, 2.0, **known) * np.abs(kept)
    assert theory.truncation_factor(10, [0, 9, 10], 2.0, **known).tolist() == [2, 2, 0]
    assert theory.truncation_factor(10, [0, 9, 10], 0.1, **known) == pytest.approx([1, 0.1, 0])
    assert theory.truncation_factor(3, 0, 0.5, smoothness=1.0) == pytest.approx(1.5**3 - 1)


def test_costs_broadcast():
    assert theory.meta_gradient_cost([1, 2]).tolist() == [4.5, 8]
    assert theory.meta_gradient_cost([[2], [4]], "truncated", [0, 1, 2]).tolist() == [[3, 5.5, 8], [5, 7.5, 10]]
    assert theory.meta_gradient_cost(3, "hessian_free", [0, 3], [1, 100]).tolist() == [4, 10]
    assert theory.meta_gradient_cost(2, hvp_cost=[1, 2]).tolist() == [5, 7]
    assert isinstance(theory.meta_gradient_cost(2), float)
    with pytest.raises(ValueError, match="backprop_steps = 3: must be an integer of at least 0 and at most 2"):
        theory.meta_gradient_cost([3, 2], "truncated", 3)


def test_arrays_broadcast_and_numbers_stay_numbers():
    table = theory.meta_smoothness([[0], [1], [5]], [0.1, 0.2], smoothness=2, hessian_lipschitz=1, gradient_bound=3)
    assert table.shape == (3, 2)
    single = theory.meta_smoothness(5, 0.2, smoothness=2, hessian_lipschitz=1, gradient_bound=3)
    assert isinstance(single, float)
    assert single == table[2, 1]
    tensor = theory.growth(torch.tensor([0.5, 1.0]), smoothness=1)
    assert tensor.dtype == np.float64
    assert theory.meta_smoothness(5000, 1.0, smoothness=1.0) == np.inf
    known = {"smoothness": 1, "hessian_lipschitz": 1, "gradient_bound": 1}
    sums = theory.meta_heterogeneity([0, 1, 4], 0.2, gradient_heterogeneity=[1, 2, 3], **known)
    alone = [
        theory.meta_heterogeneity(nu, 0.2, gradient_heterogeneity=g, **known) for nu, g in ((0, 1), (1, 2), (4, 3))
    ]
    assert sums.tolist() == alone


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.growth(-0.1, smoothness=1), r"fine_tune_lr = -0.1: must be a finite number of at least 0"),
        (lambda: theory.growth(True, smoothness=1), r"fine_tune_lr = True"),
        (
            lambda: theory.growth([0.1, np.nan], smoothness=1),
            "fine_tune_lr = .*must be finite numbers of at least 0",
        ),
        (lambda: theory.growth(0.1, smoothness=1, negative_curvature=2), r"negative_curvature = 2: must be between ±"),
        (lambda: theory.growth(0.1, smoothness="steep"), r"smoothness = 'steep'"),
        (lambda: theory.meta_smoothness(1.5, 0.1, smoothness=1), r"nu = 1.5: must be an integer of at least 0"),
        (lambda: theory.meta_smoothness([1, -1], 0.1, smoothness=1), r"nu = \[1, -1\]: must be integers of at least 0"),
        (lambda: theory.truncation_factor(2, 3, 0.1, smoothness=1), r"backprop_steps = 3: must be at most nu = 2"),
        (lambda: theory.largest_safe_fine_tune_lr(1, 0.0), r"smoothness = 0.0: must be a finite number above 0"),
        (lambda: theory.meta_gradient_cost(2, "exakt"), r"did you mean 'exact'"),
        (lambda: theory.meta_gradient_cost(2, "truncated"), r"backprop_steps = None: must be given"),
    ],
)
def test_wrong_values_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
