"""What an update of one image gives away, and what clipping and noise take from it."""

import math
import sys
from collections.abc import Callable, Iterable

import mpmath
import pytest
import torch
from scipy import optimize, stats

import gmfl_lite as gl
from gmfl_lite import privacy
from gmfl_lite.models import as_functions, cross_entropy


def one_step(model: str, digits: gl.Dataset, number: int, **estimate):
    """Return w, and w_i after one local step on one image."""
    predict, w = as_functions(gl.build_model(model, digits), torch.device("cpu"))
    query, *support = (
        (digits.x[[n]], digits.y[[n]], torch.ones(1)) for n in range(number, number + 1 + estimate.pop("nu"))
    )
    return w, gl.local_update(cross_entropy(predict), w, [(support, query)], **estimate)[0]


@pytest.mark.parametrize("model", ["softmax", "mlp"])
@pytest.mark.parametrize("number", [0, 700])
@pytest.mark.parametrize("how", [{"nu": 0}, {"nu": 3, "method": "first_order"}])
def test_one_image_comes_back_exactly(digits, model, number, how):
    found = privacy.invert_first_layer(*one_step(model, digits, number, fine_tune_lr=0.05, meta_lr=0.1, **how))
    assert torch.allclose(found, digits.x[number].flatten(), atol=1e-3)


def test_exact_meta_gradients_mix_images(digits):
    found = privacy.invert_first_layer(*one_step("mlp", digits, 0, nu=3, fine_tune_lr=0.3, meta_lr=0.1))
    assert (found - digits.x[0].flatten()).abs().max() > 0.02


def test_a_convolution_is_refused(digits):
    with pytest.raises(ValueError, match="must be linear"):
        privacy.invert_first_layer(*one_step("cnn", digits, 0, nu=0, fine_tune_lr=0.05, meta_lr=0.1))


def test_clipping_and_noise_have_the_size_they_say():
    before, after = {"a": torch.zeros(300, 200), "b": torch.zeros(7)}, {"a": torch.ones(300, 200), "b": torch.ones(7)}
    generator = torch.Generator().manual_seed(0)
    clipped = privacy.clip_and_add_noise(before, after, clip_norm=2.0, noise=0.0, generator=generator)
    everything = torch.cat([tensor.flatten() for tensor in clipped.values()])
    assert everything.norm().item() == pytest.approx(2.0, rel=1e-4)
    assert torch.allclose(everything, everything[0])  # the direction stays
    short = {name: tensor * 1e-3 for name, tensor in after.items()}
    kept = privacy.clip_and_add_noise(before, short, clip_norm=2.0, noise=0.0, generator=generator)
    assert all(torch.equal(kept[name], tensor) for name, tensor in short.items())
    noisy = privacy.clip_and_add_noise(before, after, clip_norm=2.0, noise=0.5, generator=generator)
    difference = noisy["a"] - clipped["a"]
    assert difference.std().item() == pytest.approx(0.5 * 2.0, rel=0.02)
    assert abs(difference.mean().item()) < 4 / math.sqrt(300 * 200)


def test_a_run_with_protection_is_repeatable_and_noisier(digits):
    experiment = gl.Experiment(model="softmax", rounds=4, n_agents=8, n_new_agents=0, agents_per_round=4, device="cpu")
    plain = gl.run(experiment, progress=False)
    hardly, once, again, other = (
        gl.run(run, engine=privacy.protected(*how), progress=False)
        for run, how in (
            (experiment, (1e6, 0.0)),
            (experiment, (0.5, 0.1)),
            (experiment, (0.5, 0.1)),
            (experiment.replace(rounds=8), (0.5, 0.1)),
        )
    )
    for name, tensor in plain.params.items():
        assert torch.allclose(hardly.params[name], tensor, atol=1e-6)
        assert torch.equal(once.params[name], again.params[name])
        assert (once.params[name] - tensor).abs().max() > 0.01
    assert once.engine.endswith("updates clipped at 0.5 with noise 0.1")
    assert other.status == "completed"


def rdp_of_theorem_27(q: float, sigma: float, order: int) -> mpmath.mpf:
    """Wang, Balle, Kasiviswanathan (2019), for the Gaussian mechanism, as it is printed, with 400 digits."""
    with mpmath.workdps(400):
        q, sigma = mpmath.mpf(q), mpmath.mpf(sigma)

        def moment(power):  # e^((l−1) ε(l)) at l = power
            return mpmath.exp((power - 1) * power / (2 * sigma**2))

        def difference(degree):  # the forward difference of that degree at 0
            signs = ((-1) ** (degree - i) * mpmath.binomial(degree, i) * moment(i) for i in range(degree + 1))
            return abs(mpmath.fsum(signs))

        total = mpmath.mpf(1)
        for j in range(2, order + 1):
            plain = 2 * moment(j)
            sharp = 4 * mpmath.sqrt(difference(2 * (j // 2)) * difference(2 * ((j + 1) // 2)))
            total += q**j * mpmath.binomial(order, j) * min(plain, sharp)
        return mpmath.log(total) / (order - 1)


def converted(rdp: Callable[[float], float], orders: Iterable[float], delta: float) -> float:
    """The best ε of Rényi bounds: Canonne, Kamath, Steinke (2020), proposition 12."""
    return min(float(rdp(a)) + math.log1p(-1 / a) - (math.log(delta) + math.log(a)) / (a - 1) for a in orders if a > 1)


@pytest.mark.parametrize(("noise", "m", "n", "rounds"), [(1.0, 10, 100, 200), (2.0, 5, 60, 50), (0.8, 50, 1000, 100)])
def test_epsilon_is_that_of_the_theorem_of_sampling_without_replacement(noise, m, n, rounds):
    found = privacy.epsilon(noise, rounds, agents_per_round=m, n_agents=n)
    sigma = noise * math.sqrt(m) / 2
    expected = converted(lambda order: rounds * rdp_of_theorem_27(m / n, sigma, order), range(2, 40), 1e-5)
    assert found == pytest.approx(expected, rel=0.01)
    assert found < privacy.epsilon(noise, rounds, agents_per_round=m), "secret picks make it smaller"


@pytest.mark.parametrize(("noise", "rounds", "m"), [(0.03, 28, 1), (0.03, 28, 3), (1.0, 1, 1), (5.0, 100, 4)])
def test_without_sampling_it_is_a_little_above_the_exact_curve_of_a_gaussian(noise, rounds, m):
    """Balle and Wang (2018), theorem 8: δ(ε) in closed form."""
    distance = 2 * math.sqrt(rounds) / (noise * math.sqrt(m))  # between the means, in standard deviations

    def delta(epsilon):
        first = stats.norm.logcdf(distance / 2 - epsilon / distance)
        return math.exp(first) - math.exp(epsilon + stats.norm.logcdf(-distance / 2 - epsilon / distance))

    exact = optimize.brentq(lambda epsilon: delta(epsilon) - 1e-5, 0, distance**2 + 20 * distance)
    found = privacy.epsilon(noise, rounds, agents_per_round=m)
    assert exact < found < 1.12 * exact
    best = optimize.minimize_scalar(
        lambda log_order: converted(lambda a: a * distance**2 / 2, [1 + math.exp(log_order)], 1e-5),
        bounds=(-12, 7),
        method="bounded",
    )
    assert found == pytest.approx(best.fun, rel=0.01)


def test_the_noise_multiplier_is_what_one_round_really_has():
    """Two federations of four in which one agent's update is turned round: how far apart the averages are."""
    generator, w = torch.Generator().manual_seed(0), {"w": torch.zeros(20_000)}
    direction = torch.zeros(20_000)
    direction[0] = 9.0

    def average(sign):
        sent = [sign * direction, *[torch.zeros(20_000)] * 3]
        how = {"clip_norm": 1.5, "noise": 0.7, "generator": generator}
        noisy = [privacy.clip_and_add_noise(w, {"w": one}, **how)["w"] for one in sent]
        return gl.aggregate({"w": torch.stack(noisy)})["w"]

    spread = average(1)[1:].std().item()
    apart = torch.stack([average(1)[0] - average(-1)[0] for _ in range(100)]).mean().item()
    assert apart / spread == pytest.approx(2 / (0.7 * math.sqrt(4)), rel=0.15)


def test_epsilon_at_its_edges():
    assert privacy.epsilon(0.0, 3) == math.inf
    assert privacy.epsilon(1.0, 0) == 0.0
    assert privacy.epsilon(1.0, 5, agents_per_round=4, n_agents=4) == privacy.epsilon(1.0, 5, agents_per_round=4)
    assert privacy.epsilon(1.0, 5) < privacy.epsilon(1.0, 6) < privacy.epsilon(0.9, 6)
    for wrong, named in (({"noise": -1}, "noise"), ({"delta": 0}, "delta"), ({"n_agents": 3}, "agents_per_round = 4")):
        with pytest.raises(ValueError, match=named):
            privacy.epsilon(**{"noise": 1.0, "rounds": 1, "agents_per_round": 4, **wrong})


def test_without_the_accountant_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ImportError, match=r"pip install 'gmfl_lite\[privacy\]'"):
        privacy.epsilon(1.0, 1)
