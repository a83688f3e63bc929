"""The closed forms of quadratic agents against the library's gradients and rounds, and what they teach."""

import itertools

import numpy as np
import pytest
from theory_instances import quadratics, random_quadratics, rms

from gmfl_lite.theory import Quadratics, meta_smoothness

NUS = [0, 1, 2, 5, 10, 20]
ALPHA = 0.5


@pytest.fixture
def worked():
    """Agent A: curvature 1, optimum +1. Agent B: curvature 0.1, optimum −1."""
    return Quadratics([[[1.0]], [[0.1]]], [[1.0], [-1.0]])


@pytest.fixture
def pair(rng):
    """The same random agents in closed form and for the library to differentiate."""
    agents = random_quadratics(rng, n=4, low=-0.2)
    return Quadratics(*(tensor.numpy() for tensor in agents.batches)), agents


def printed(value, digits):
    return float(f"{value:.{digits - 1}e}")


def test_the_worked_example(worked):
    table = {  # ν: w*, w of first-order gradients, smoothness of F, the formula (1 + αL)^2ν L for it, F(w*)
        0: (0.818, 0.818, 0.55, 1, 0.0909),
        1: (0.470, 0.681, 0.170, 2.25, 0.0663),
        2: (-0.132, 0.470, 0.072, 5.06, 0.0354),
        5: (-0.968, -0.425, 0.030, 57.7, 9.6e-4),
        10: (-1.000, -0.968, 0.018, 3.3e3, 9.5e-7),
        20: (-1.000, -1.000, 0.0064, 1.1e7, 9.1e-13),
    }
    for nu, (best, first_order, smoothness, formula, loss) in table.items():
        assert round(worked.minimiser(nu, ALPHA).item(), 3) == best
        assert round(worked.minimiser(nu, ALPHA, method="first_order").item(), 3) == first_order
        assert printed(worked.meta_smoothness(nu, ALPHA), 2 if nu != 1 else 3) == smoothness
        bound = meta_smoothness(nu, ALPHA, smoothness=worked.smoothness)
        assert printed(bound, 3 if nu <= 5 else 2) == formula
        assert printed(worked.meta_loss(worked.minimiser(nu, ALPHA), nu, ALPHA), 2 if nu >= 5 else 3) == loss


def test_the_mismatch_matrix_of_the_worked_example(worked):
    table = """
        0.0909 0.0767 0.0678 0.0495 0.0296 0.0106
        0.1243 0.0663 0.0484 0.0324 0.0194 0.0069
        0.3390 0.0971 0.0354 0.0116 0.0068 0.0024
        0.9682 0.2421 0.0605 9.6e-4 1.0e-5 3.3e-6
        0.9999 0.2500 0.0625 9.8e-4 9.5e-7 1.0e-11
        1.0000 0.2500 0.0625 9.8e-4 9.5e-7 9.1e-13"""
    # Trained for 10 and deployed with 0 it is 0.9999468; the note rounds up to 1.0000.
    found = worked.mismatch(NUS, ALPHA)
    assert (found.index.name, found.columns.name) == ("trained", "deployed")
    for row, numbers in zip(found.to_numpy(), table.split("\n")[1:], strict=True):
        for value, number in zip(row, numbers.split(), strict=True):
            assert (f"{value:.1e}".replace("e-0", "e-") if "e" in number else f"{value:.4f}") == number


@pytest.mark.parametrize("seed", range(1, 6))
def test_both_mistakes_cost_heterogeneous_agents(seed):
    """Ten agents in four dimensions, curvatures from 0.02 to 1: relative to the best, and in numbers."""
    losses = Quadratics.random(10, 4, lowest=0.02, highest=1.0, seed=seed).mismatch([*NUS, 50], ALPHA).to_numpy()
    penalty = losses / losses.diagonal()
    assert (penalty[~np.eye(7, dtype=bool)] > 1.001).all()
    assert penalty[0, -1] > 1.25  # FedAvg for users who take 50 steps
    assert penalty[-1, 0] > 1.25  # trained for 50, for users who take none
    regret = losses - losses.diagonal()
    assert regret[-1, 0] > 30 * regret[0, -1]  # in absolute numbers a large ν′ forgives everything


def test_rows_of_a_mismatch_matrix_are_worst_off_the_diagonal(pair):
    closed, _ = pair
    closed = Quadratics(closed.A + 0.3 * np.eye(3), closed.c)
    matrix = closed.mismatch(NUS, ALPHA).to_numpy()
    assert (matrix.diagonal() <= matrix.min(axis=0) * (1 + 1e-9)).all()
    for i, trained in enumerate(NUS):
        for j, deployed in enumerate(NUS):
            gap = closed.minimiser(trained, ALPHA) - closed.minimiser(deployed, ALPHA)
            M = np.linalg.matrix_power(np.eye(3) - ALPHA * closed.A, 2 * deployed)
            assert matrix[i, j] - matrix[j, j] == pytest.approx(0.5 * gap @ (closed.A @ M).mean(0) @ gap, abs=1e-12)


@pytest.mark.parametrize("nu", [0, 1, 2, 5])
def test_closed_forms_are_what_the_library_differentiates(pair, nu, rng):
    closed, agents = pair
    w = rng.normal(size=3)
    gradients = agents.meta_gradients(w, nu, ALPHA)
    assert closed.meta_loss(w, nu, ALPHA) == pytest.approx(agents.losses(w, nu, ALPHA).mean())
    np.testing.assert_allclose(closed.meta_gradient(w, nu, ALPHA), gradients.mean(0), atol=1e-12)
    assert closed.meta_heterogeneity(w, nu, ALPHA) == pytest.approx(rms(gradients - gradients.mean(0)))
    hessians = agents.meta_hessians(w, nu, ALPHA)
    assert closed.meta_smoothness(nu, ALPHA) == pytest.approx(np.linalg.norm(hessians.mean(0), 2))
    assert closed.largest_meta_smoothness(nu, ALPHA) == pytest.approx(np.linalg.norm(hessians, 2, axis=(1, 2)).max())
    assert closed.smoothness == pytest.approx(agents.smoothness)
    assert closed.negative_curvature == pytest.approx(0.2)
    for estimate in (
        {"method": "first_order"},
        {"method": "truncated", "backprop_steps": nu // 2},
        {"method": "hessian_free"},
        {"method": "hessian_free", "backprop_steps": nu // 2},
    ):
        found = agents.meta_gradients(w, nu, ALPHA, **estimate).mean(0)
        np.testing.assert_allclose(closed.meta_gradient(w, nu, ALPHA, **estimate), found, atol=1e-9)
        for picked in (None, [2], [0, 3]):
            found = agents.round(w, nu, ALPHA, 0.3, 3, slice(None) if picked is None else picked, **estimate)
            after = closed.round(w, nu, ALPHA, 0.3, 3, picked, **estimate)
            np.testing.assert_allclose(after, found, atol=1e-9)


def test_many_points_at_once(pair, rng):
    closed, _ = pair
    points = rng.normal(size=(5, 2, 3))
    for function in (
        lambda w: closed.meta_loss(w, 2, ALPHA),
        lambda w: closed.meta_gradient(w, 2, ALPHA),
        lambda w: closed.meta_heterogeneity(w, 2, ALPHA),
        lambda w: closed.round(w, 2, ALPHA, 0.1, 2),
    ):
        np.testing.assert_allclose(function(points)[3, 1], function(points[3, 1]), rtol=1e-12)


def test_the_minimiser_is_where_rounds_of_one_step_end(rng):
    closed = Quadratics(*(t.numpy() for t in random_quadratics(rng, low=0.2).batches))
    w = np.zeros(3)
    for _ in range(3000):
        w = closed.round(w, 2, ALPHA, 1.0, 1)
    np.testing.assert_allclose(w, closed.minimiser(2, ALPHA), atol=1e-9)
    np.testing.assert_allclose(closed.meta_gradient(w, 2, ALPHA), 0, atol=1e-12)


@pytest.mark.parametrize(("nu", "m"), [(4, 0), (4, 2), (5, 1), (6, 6), (2, 0)])
def test_truncation_is_under_stepping(pair, nu, m, rng):
    """Keeping m of ν factors is the exact meta-gradient for (ν + m)/2 steps."""
    closed, agents = pair
    w, kept = rng.normal(size=3), {"method": "truncated", "backprop_steps": m}
    fewer = agents.meta_gradients(w, (nu + m) // 2, ALPHA)
    np.testing.assert_allclose(agents.meta_gradients(w, nu, ALPHA, **kept), fewer, atol=1e-13)
    convex = Quadratics(closed.A + 0.3 * np.eye(3), closed.c)
    np.testing.assert_allclose(convex.minimiser(nu, ALPHA, **kept), convex.minimiser((nu + m) // 2, ALPHA), rtol=1e-10)


def test_equal_hessians_make_nu_irrelevant(rng):
    A = np.diag([1.0, 0.3])
    closed = Quadratics([A] * 4, rng.normal(size=(4, 2)))
    for nu in NUS:
        np.testing.assert_allclose(closed.minimiser(nu, ALPHA), closed.c.mean(0), atol=1e-12)


def test_looking_ahead_moves_the_weight_to_slow_agents(worked):
    """Both agents weigh the same at ν = ln(b/a) / 2 ln((1 − αa)/(1 − αb)) = 1.79, where w* changes its sign."""
    crossing = np.log(10) / (2 * np.log(0.95 / 0.5))
    assert round(crossing, 2) == 1.79
    assert worked.minimiser(1, ALPHA) > 0 > worked.minimiser(2, ALPHA)


@pytest.mark.parametrize(("a", "c"), [((1.0, 0.1), (1.0, -1.0)), ((0.7, -0.02), (0.3, 2.0)), ((0.5, 0.5), (1.0, -1.0))])
@pytest.mark.parametrize("nu", [1, 3])
def test_the_first_order_floor_is_real(a, c, nu):
    """The closed form of ∇F where first-order training ends, against training by the library's own rounds."""
    m = 1 - ALPHA * np.array(a)
    slow, fast = a[0] * m[0] ** nu, a[1] * m[1] ** nu
    floor = slow * fast * (c[1] - c[0]) * (m[0] ** nu - m[1] ** nu) / (2 * (slow + fast))
    closed = Quadratics(np.reshape(a, (2, 1, 1)), np.reshape(c, (2, 1)))
    rest = closed.minimiser(nu, ALPHA, method="first_order")
    assert closed.meta_gradient(rest, nu, ALPHA).item() == pytest.approx(floor, abs=1e-15)
    assert (floor == 0) == (a[0] == a[1])
    agents = quadratics(closed.A, closed.c)
    w = rest + 1e-3
    for _ in range(200):
        w = agents.round(w, nu, ALPHA, 1.0, 1, method="first_order")
    np.testing.assert_allclose(w, rest, atol=1e-6)
    assert agents.meta_gradients(w, nu, ALPHA).mean() == pytest.approx(floor, abs=1e-6)


def test_more_steps_never_raise_the_smallest_meta_loss(rng):
    closed = Quadratics(*(t.numpy() for t in random_quadratics(rng, low=0.1).batches))
    w = rng.normal(size=(50, 3))
    losses = np.stack([closed.meta_loss(w, nu, 2.0) for nu in range(6)])  # α = 2/L
    assert (np.diff(losses, axis=0) <= 1e-12).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Quadratics([[1.0]], [[1.0]]), r"A, c: must have shapes \[n, d, d\] and \[n, d\]"),
        (lambda: Quadratics(np.zeros((0, 1, 1)), np.zeros((0, 1))), "A, c: must have shapes"),
        (lambda: Quadratics([[[1.0, 2.0], [0.0, 1.0]]], [[0.0, 0.0]]), "A: must hold symmetric matrices"),
        (lambda: Quadratics([[[np.nan]]], [[0.0]]), "A = .*: must be finite numbers"),
        (lambda: Quadratics([[[1.0]]], [[0.0]]).meta_loss([1.0, 2.0], 0, 0.1), "w: must have 1 entries"),
        (lambda: Quadratics([[[1.0]]], [[0.0]]).meta_loss(1.0, 0, 0.1), "w: must have 1 entries"),
        (lambda: Quadratics([[[1.0]]], [[0.0]]).meta_loss([1.0], -1, 0.1), "nu = -1"),
        (lambda: Quadratics([[[0.0]]], [[0.0]]).minimiser(0, 0.1), "F has no unique minimiser"),
        (lambda: Quadratics([[[1.0]], [[-1.0]]], [[0.0], [1.0]]).minimiser(1, 0.1), "F has no unique minimiser"),
        (lambda: Quadratics([[[1.0]]], [[0.0]]).round([1.0], 0, 0.1, 0.1, 1, [1]), r"agents = \[1\]"),
        (lambda: Quadratics([[[1.0]]], [[0.0]]).round([1.0], 0, 0.1, 0.1, 0), "local_steps = 0"),
        (lambda: Quadratics([[[1.0]]], [[0.0]]).mismatch([0.5], 0.1), "nus = "),
    ],
)
def test_wrong_values_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_rounding_leaves_matrices_symmetric(rng):
    turns = np.linalg.qr(rng.normal(size=(20, 4, 4)))[0]
    A = (turns * [1e-3, 1e-2, 0.1, 1.0]) @ turns.swapaxes(1, 2)
    assert not np.array_equal(A, A.swapaxes(1, 2))
    agents = Quadratics(A, np.zeros((20, 4)))
    assert np.array_equal(agents.A, agents.A.swapaxes(1, 2))
    assert np.abs(agents.A - A).max() < 1e-15
    A[3, 0, 1] += 1e-11
    with pytest.raises(ValueError, match="A: must hold symmetric matrices"):
        Quadratics(A, np.zeros((20, 4)))


def test_random_agents_have_the_curvatures_asked_for():
    agents = Quadratics.random(200, 3, lowest=0.01, highest=2.0, seed=1)
    curvatures = np.linalg.eigvalsh(agents.A)
    assert 0.01 <= curvatures.min() < 0.012
    assert 1.8 < curvatures.max() <= 2.0
    assert np.median(curvatures) == pytest.approx(np.sqrt(0.02), rel=0.15)  # evenly in the logarithm
    again = Quadratics.random(200, 3, lowest=0.01, highest=2.0, seed=1)
    assert np.array_equal(agents.A, again.A)
    assert np.array_equal(agents.c, again.c)
    for wrong in ({"n_agents": 0}, {"dimensions": 0}, {"lowest": 0.0}, {"lowest": 3.0}, {"highest": np.inf}):
        setting = {"n_agents": 2, "dimensions": 2, "lowest": 0.1, "highest": 1.0, "seed": 0} | wrong
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Quadratics.random(setting.pop("n_agents"), setting.pop("dimensions"), **setting)


@pytest.mark.parametrize("estimate", [{}, {"method": "first_order"}, {"method": "truncated", "backprop_steps": 1}])
def test_training_is_round_after_round(estimate):
    agents = Quadratics.random(5, 3, lowest=0.1, highest=1.0, seed=0)
    w = np.ones(3)
    visited = agents.train(w, 3, 0.5, 0.3, 4, rounds=6, **estimate)
    assert visited.shape == (7, 1, 3)
    for seen in visited[:, 0]:
        np.testing.assert_allclose(seen, w, atol=1e-12)
        w = agents.round(w, 3, 0.5, 0.3, 4, **estimate)


def test_training_picks_all_subsets_equally_often():
    agents = Quadratics.random(4, 2, lowest=0.1, highest=1.0, seed=0)
    ends = agents.train(np.ones(2), 1, 0.5, 0.3, 2, rounds=1, agents_per_round=2, repeats=6000)[1]
    pairs = [agents.round(np.ones(2), 1, 0.5, 0.3, 2, pair) for pair in itertools.combinations(range(4), 2)]
    nearest = np.abs(ends[:, None] - np.stack(pairs)).sum(2)
    assert nearest.min(axis=1).max() < 1e-12
    assert np.bincount(nearest.argmin(axis=1), minlength=6) == pytest.approx(np.full(6, 1000), abs=120)


def test_noise_of_training_has_the_variance_asked_for():
    """With one agent at its optimum and a step of size one of curvature one, the next w is the noise itself."""
    alone = Quadratics([np.eye(3)], np.zeros((1, 3)))
    ends = alone.train(np.zeros(3), 0, 0.5, 1.0, 1, rounds=1, noise=0.6, repeats=20000)[1]
    assert (ends**2).sum(axis=1).mean() == pytest.approx(0.36, rel=0.03)
    np.testing.assert_allclose(np.cov(ends.T), 0.12 * np.eye(3), atol=0.006)


def test_bias_of_approximated_gradients():
    agents = Quadratics.random(4, 2, lowest=0.1, highest=1.0, seed=0)
    w = np.array([[1.0, 2.0], [0.5, -1.0]])
    assert np.abs(agents.meta_bias(w, 3, 0.5, "hessian_free")).max() < 1e-15
    for point, found in zip(w, agents.meta_bias(w, 3, 0.5, "truncated", 1), strict=True):
        alone = [Quadratics(agents.A[[i]], agents.c[[i]]) for i in range(4)]
        apart = [one.meta_gradient(point, 3, 0.5, "truncated", 1) - one.meta_gradient(point, 3, 0.5) for one in alone]
        assert found == pytest.approx(np.sqrt(np.mean([x @ x for x in apart])))
