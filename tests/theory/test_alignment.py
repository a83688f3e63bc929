"""Where a round leads and where new agents would like w to go: the angle, by differences of scores."""

import pytest
import torch
from torch import nn

import gmfl_lite as gl
from gmfl_lite.evaluation import evaluate
from gmfl_lite.models import as_functions

WHAT_IF = gl.Experiment(
    n_agents=6, n_new_agents=3, agents_per_round=6, rounds=1, permuted_classes=10, model="softmax", batch_size=None,
    precision="float64", device="cpu", fine_tune_lr=0.8, meta_lr=0.1, nu=1, local_steps=1,
)  # fmt: skip
METHODS = [
    {"nu": 0, "local_steps": 4},
    {"nu": 2, "gradient": "first_order", "local_steps": 2, "proximal": 0.5},
    {"nu": 1, "model": "mlp", "personal": "head"},
    {"nu": 1, "batch_size": 8, "shots": 3, "query": "disjoint"},
]


def built(what_if):
    federation = gl.build_federation(what_if).in_precision("float64")
    return federation, gl.build_model(what_if.model, federation, seed=what_if.seed)


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("steps", [1, 3])
def test_it_is_the_angle_that_scores_along_the_way_have(method, steps):
    """F falls by |∇F| cos per unit of the way: over the fall along −∇F itself, by differences in every direction."""
    what_if = WHAT_IF.replace(**method)
    federation, model = built(what_if)
    predict, w = as_functions(model, "cpu", torch.float64)
    after = gl.by_hand(what_if)
    way = {name: after[name] - tensor for name, tensor in w.items()}

    def fall(direction):
        """Per unit of the way."""
        length, h = sum(tensor.square().sum() for tensor in direction.values()).sqrt(), 1e-5
        ends = []
        for side in (-h, h):
            there = {name: tensor + side / length * direction[name] for name, tensor in w.items()}
            how = {"steps": [steps], "fine_tune_lr": what_if.fine_tune_lr, "personal": what_if.personal}
            scores = evaluate(federation, predict, there, execution="loop", **how)
            ends.append(scores[scores["group"] == "new"]["loss"].mean())
        return (ends[0] - ends[1]) / (2 * h)

    found = gl.theory.alignment(what_if, federation, model, steps=steps)
    plain = what_if.replace(nu=0, local_steps=1, gradient="exact", proximal=0.0)
    other, beside = gl.by_hand(plain), gl.theory.alignment(plain, federation, model, steps=steps)
    ratio = fall(way) / fall({name: other[name] - tensor for name, tensor in w.items()})
    assert found / beside == pytest.approx(ratio, rel=1e-5)
    assert -1 <= found <= 1


def test_along_the_meta_gradient_it_is_one():
    """Of an agent that trains and a new one that are alike, and scored on what they train on."""
    x, y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), [0, 1, 2, 0, 1, 2]
    agents = [(x, torch.tensor(y))] * 2
    federation = gl.Federation.from_agents(agents, test=agents, n_new_agents=1)
    line = nn.utils.skip_init(nn.Linear, 3, 3)
    nn.init.constant_(line.weight, 0.3), nn.init.zeros_(line.bias)
    ahead = WHAT_IF.replace(nu=3)
    assert gl.theory.alignment(ahead, federation, line, steps=3) == pytest.approx(1)
    elsewhere = {"weight": torch.eye(3), "bias": torch.zeros(3)}
    here, there = (gl.theory.alignment(ahead, federation, line, w, steps=1) for w in (None, elsewhere))
    assert here != pytest.approx(there, abs=1e-4)


def test_refusals():
    federation, model = built(WHAT_IF.replace(n_new_agents=0))
    with pytest.raises(ValueError, match=r"federation = .* one with new agents"):
        gl.theory.alignment(WHAT_IF, federation, model)
    with pytest.raises(ValueError, match="steps = 0"):
        gl.theory.alignment(WHAT_IF, *built(WHAT_IF), steps=0)
