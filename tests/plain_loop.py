"""Training as a plain autograd loop: what the library's gradients are compared with."""

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import gmfl_lite as gl
from gmfl_lite.trainer import batches_of, picked_in


def plain_loop(model: nn.Module, experiment: gl.Experiment, federation: gl.Federation, loss) -> dict[str, torch.Tensor]:
    """Return w after the experiment's rounds; `loss` is a function of (prediction, y), the mean over samples.

    Which agents and samples are drawn, the library says; all else is torch.autograd. Padding is cut off.
    """
    federation = federation.in_precision(experiment.precision)
    model = model.double() if federation.dtype == torch.float64 else model.float()  # what is complex stays so
    w = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    def f(params, batch):
        x, y, weight = batch
        with sdpa_kernel(SDPBackend.MATH):
            prediction = torch.func.functional_call(model, params, (x[weight > 0],))
        return loss(prediction, y[weight > 0])

    def gradient(value, params, **how):
        found = torch.autograd.grad(value, list(params.values()), allow_unused=True, **how)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(params.values(), found, strict=True)]

    def stepped(params, gradients, lr):
        return {name: p - lr * g for (name, p), g in zip(params.items(), gradients, strict=True)}

    for round in range(experiment.rounds):
        sent = []
        for agent in picked_in(round, experiment, federation).tolist():
            mine = w
            for support, query in batches_of(agent, experiment, federation, round):
                begun = tuned = {name: tensor.detach().requires_grad_() for name, tensor in mine.items()}
                for batch in support:
                    tuned = stepped(tuned, gradient(f(tuned, batch), tuned, create_graph=True), experiment.fine_tune_lr)
                mine = stepped(begun, gradient(f(tuned, query), begun), experiment.meta_lr)
            sent.append(mine)
        w = {name: torch.stack([mine[name] for mine in sent]).mean(0).detach() for name in w}
    return w


def largest_gap(result: gl.Result, expected: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of any parameter."""
    assert expected.keys() == result.params.keys()
    return max((result.params[name] - expected[name]).abs().max().item() for name in expected)
