"""The algorithm on one page gives the model that the engines give."""

import pytest
import torch

import gmfl_lite as gl

EXPERIMENT = gl.Experiment(n_agents=12, agents_per_round=4, rounds=3, model="softmax", fine_tune_lr=0.2, meta_lr=0.3)


@pytest.mark.parametrize(
    "changes",
    [
        *({"nu": nu, "local_steps": tau, "model": "mlp"} for nu in (0, 1, 3) for tau in (1, 5)),
        {"gradient": "reptile", "server_lr": 0.5},
        {"gradient": "first_order", "weighting": "samples"},
        {"gradient": "truncated", "backprop_steps": 1, "batch_size": None},
        {"server_lr": 0.5, "weighting": "samples", "batch_size": 7},
        {"aggregation": "median"},
        {"aggregation": "trimmed", "server_lr": 0.5, "batch_size": 7},
        {"server": "adam", "server_lr": 0.02, "proximal": 0.1, "batch_size": 7},
    ],
    ids=str,
)
@pytest.mark.parametrize("execution", ["loop", "vectorized"])
def test_by_hand_equals_run(federation, changes, execution):
    experiment = EXPERIMENT.replace(execution=execution, **changes)
    page = gl.by_hand(experiment, federation)
    run = gl.run(experiment, federation=federation, progress=False).params
    start = gl.build_model(experiment.model, federation).state_dict()
    assert page.keys() == run.keys()
    for name in run:
        assert (run[name] - start[name]).abs().max() > 1e-3, "nothing was trained"
        torch.testing.assert_close(page[name], run[name], rtol=0, atol=1e-5)


def test_it_takes_a_model_and_leaves_it_alone(federation):
    model = gl.build_model("softmax", federation, seed=5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    page = gl.by_hand(EXPERIMENT, federation, model)
    run = gl.run(EXPERIMENT, federation=federation, model=model, progress=False).params
    for name in run:
        torch.testing.assert_close(page[name], run[name], rtol=0, atol=1e-5)
        assert torch.equal(model.state_dict()[name], before[name])


def test_it_fits_on_a_page():
    """What a student reads next to the paper: the function below its docstring."""
    import inspect

    body = inspect.getsource(gl.by_hand).split('"""')[2]
    assert len([line for line in body.splitlines() if line.strip()]) <= 28
