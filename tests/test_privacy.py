"""What an update of one image gives away, and what clipping and noise take from it."""

import math

import pytest
import torch

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
