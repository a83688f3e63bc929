"""Why does averaging lead nowhere where agents hold one image of each class? Where its rounds lead, on its own way.

python studies/why.py [--seeds 10] [--out FILE]

FedAvg with five local steps trains on the digits of the first study. At its w after some rounds, gl.theory.alignment
says how much of what its next round does is what new agents need. It writes studies/few-shots/alignment.csv.
"""

import argparse
from pathlib import Path

import few_shots
import pandas as pd

import gmfl_lite as gl

ROOT = Path(__file__).resolve().parent.parent
ROUNDS, DEPLOYED = (0, 10, 30, 100, 300), 1
FEDAVG = few_shots.FEDAVG | {"local_steps": 5, "fine_tune_lr": 1.0, "meta_lr": 0.5}
"""Its step sizes are a little below those that the study found after 30 rounds, as it takes 300 here."""


def on_the_way(shots: int | None, seed: int) -> list[dict[str, object]]:
    """Return rounds, new agents' accuracy after one step, and the alignment there."""
    run = few_shots.Regime(shots).experiment.replace(**FEDAVG, eval_steps=(DEPLOYED,), seed=seed)
    federation, rows = gl.build_federation(run), []
    model = gl.build_model(run.model, federation, seed=seed)
    for rounds in ROUNDS:
        many = max(1, rounds)
        result = gl.run(run.replace(rounds=many, eval_every=many), federation=federation, progress=False)
        new = result.history[(result.history["group"] == "new") & (result.history["round"] == rounds)]
        w = result.params if rounds else None
        found = gl.theory.alignment(run, federation, model, w, steps=DEPLOYED)
        row = {"shots": str(shots or "all"), "seed": seed, "rounds": rounds}
        rows.append({**row, "accuracy": new["accuracy"].iloc[0], "alignment": found})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=10, help="of the federations that are scored")
    parser.add_argument("--out", type=Path, default=ROOT / "studies" / "few-shots" / "alignment.csv")
    asked = parser.parse_args()
    rows: list[dict[str, object]] = []
    for shots in (1, None):
        for seed in few_shots.SCORED_SEEDS[: asked.seeds]:
            rows += on_the_way(shots, seed)
            pd.DataFrame(rows).to_csv(asked.out, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
