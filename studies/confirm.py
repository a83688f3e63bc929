"""The lead of the first study once more, trained by other people's code: TorchOpt, torch.optim and Flower's average.

python studies/confirm.py [--seeds 10] [--rounds 300] [--out FILE]

The agents, the initial weights, the picks and the step sizes (to four digits) are the study's; every gradient, every
step, the average and the scores are made without gmfl_lite. It writes the accuracies of both to
studies/few-shots/confirmed.csv.
"""

import argparse
from pathlib import Path

import few_shots
import pandas as pd
import torch
import torchopt
from flwr.server.strategy.aggregate import aggregate
from torch import nn
from torch.nn.functional import cross_entropy

import gmfl_lite as gl

ROOT = Path(__file__).resolve().parent.parent
METHODS, DEPLOYED = ("FedAvg, τ = 5", "ν = 1", "ν = 3"), 1
Data = tuple[torch.Tensor, torch.Tensor]


def tuned(method: str, rounds: int) -> gl.Experiment:
    """Return a method with the step sizes that the study found for one fine-tuning step after 300 rounds."""
    cells = pd.read_csv(ROOT / "studies" / "few-shots" / "cells.csv", dtype={"shots": str})
    found = cells[(cells["method"] == method) & (cells["deployed"] == DEPLOYED)]
    ((_, best),) = found[(found["shots"] == "1") & (found["rounds"] == 300)].iterrows()
    run = few_shots.Regime(rounds=rounds).experiment.replace(**few_shots.METHODS[method])
    looks = {"eval_every": rounds, "eval_steps": (DEPLOYED,)}
    return run.replace(fine_tune_lr=best["fine_tune_lr"], meta_lr=best["meta_lr"], **looks)


def theirs(run: gl.Experiment) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Return w after all rounds, and every new agent's accuracy after its fine-tuning steps."""
    federation = gl.build_federation(run).in_precision(run.precision)
    model = gl.build_model(run.model, federation, seed=run.seed).double()
    for round in range(run.rounds):
        picked = gl.server.pick_agents(run.n_agents, run.agents_per_round, run.seed, round).tolist()
        begun = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        updates = []
        for agent in picked:
            model.load_state_dict(begun)
            locally(model, federation.train(agent), run)
            updates.append(([tensor.numpy().copy() for tensor in model.state_dict().values()], 1))
        average = map(torch.from_numpy, aggregate(updates))
        model.load_state_dict(dict(zip(begun, average, strict=True)))
    w = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return w, [adapted(model, w, federation, agent, run.fine_tune_lr) for agent in federation.groups["new"].tolist()]


def locally(model: nn.Module, data: Data, run: gl.Experiment) -> None:
    """Take an agent's local meta steps on all that it trains on."""
    x, y = data
    descent = torch.optim.SGD(model.parameters(), lr=run.meta_lr)
    for _ in range(run.local_steps):
        inner = torchopt.MetaSGD(model, lr=run.fine_tune_lr)
        start, leaves = torchopt.extract_state_dict(model, by="reference"), list(model.parameters())
        for _ in range(run.nu):
            inner.step(cross_entropy(model(x), y))
        gradients = torch.autograd.grad(cross_entropy(model(x), y), leaves)
        torchopt.recover_state_dict(model, start)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient
        descent.step()


def adapted(model: nn.Module, w: dict[str, torch.Tensor], federation: gl.Federation, agent: int, lr: float) -> float:
    """Return an agent's accuracy after its fine-tuning steps."""
    model.load_state_dict(w)
    x, y = federation.train(agent)
    descent = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(DEPLOYED):
        descent.zero_grad()
        cross_entropy(model(x), y).backward()
        descent.step()
    x, y = federation.test(agent)
    return (model(x).argmax(1) == y).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=10, help="of the federations that are scored")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--out", type=Path, default=ROOT / "studies" / "few-shots" / "confirmed.csv")
    asked = parser.parse_args()
    rows = []
    for method in METHODS:
        for seed in few_shots.SCORED_SEEDS[: asked.seeds]:
            run = tuned(method, asked.rounds).replace(seed=seed)
            ours, (w, accuracies) = gl.run(run, progress=False), theirs(run)
            mine = ours.agents[ours.agents["group"] == "new"]["accuracy"].mean()
            apart = max(float((w[name] - tensor).abs().max()) for name, tensor in ours.params.items())
            rows.append([method, seed, mine, sum(accuracies) / len(accuracies), apart])
            pd.DataFrame(rows, columns=["method", "seed", "accuracy", "by_others", "weights_apart"]).to_csv(
                asked.out, index=False, float_format="%.4g"
            )
            print(*rows[-1])


if __name__ == "__main__":
    main()
