"""Models: shapes, initial weights, and modules that must be refused."""

import numpy as np
import pytest
import torch
from torch import nn

import gmfl_lite as gl
from gmfl_lite.models import as_functions


@pytest.mark.parametrize(
    ("name", "parameters"), [("softmax", 650), ("mlp", 10_670), ("cnn", 16 * 9 + 16 + 32 + 32 * 145 + 64 + 1290)]
)
def test_built_models_fit_the_data(digits, name, parameters):
    model = gl.build_model(name, digits)
    assert model(digits.x[:5]).shape == (5, 10)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("name", ["softmax", "mlp", "cnn"])
def test_initial_weights_are_pytorchs_usual_ones_from_the_seed_alone(digits, name):
    model, again, other = (gl.build_model(name, digits, seed=seed) for seed in (3, 3, 4))
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            bound = np.prod(layer.weight.shape[1:]) ** -0.5
            assert 0.9 * bound < layer.weight.abs().max() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.2)
            assert 0 < layer.bias.abs().max() <= bound
        if isinstance(layer, nn.GroupNorm):
            assert (layer.weight == 1).all()
            assert (layer.bias == 0).all()


def test_functions_equal_the_module_and_leave_it_alone(digits):
    model = gl.build_model("mlp", digits)
    predict, params = as_functions(model, torch.device("cpu"))
    assert torch.equal(predict(params, digits.x[:7]), model(digits.x[:7]))
    for parameter in params.values():
        parameter.zero_()
    assert predict(params, digits.x[:7]).abs().max() == 0
    assert model(digits.x[:7]).abs().max() > 0


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)),
            r"layer '1' \(BatchNorm2d\) keeps running statistics.*GroupNorm",
        ),
        (nn.Sequential(nn.InstanceNorm2d(4, track_running_stats=True)), "running statistics"),
        (nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), r"layer '1' \(Dropout\) draws from torch's global generator"),
        (nn.ReLU(), "no parameters"),
        ("mlp", "torch.nn.Module"),
    ],
)
def test_unsuitable_modules_are_refused_with_the_way_out(model, message):
    with pytest.raises(ValueError, match=message):
        as_functions(model, torch.device("cpu"))


@pytest.mark.parametrize("model", [nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True)])
def test_normalisation_without_running_state_is_welcome(model):
    as_functions(model, torch.device("cpu"))


def test_requests(digits):
    with pytest.raises(ValueError, match="dataset = 'digits': must be a Dataset or a Federation"):
        gl.build_model("mlp", "digits")
    with pytest.raises(ValueError, match=r"model = 'mpl'.*did you mean 'mlp'"):
        gl.build_model("mpl", digits)
    tiny = gl.Dataset("tiny", torch.zeros(2, 1, 3, 9), torch.tensor([0, 1]), ("a", "b"))
    with pytest.raises(ValueError, match="at least 4×4 pixels, got samples of 1×3×9"):
        gl.build_model("cnn", tiny)
