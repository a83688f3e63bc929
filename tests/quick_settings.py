"""Settings of a run that takes no time, as a file and as an Experiment."""

import gmfl_lite as gl

QUICK = """model: softmax
n_agents: 6
n_new_agents: 2
agents_per_round: 3
rounds: 4
local_steps: 1
eval_every: 2
eval_steps: [0, 1, 3]
device: cpu
"""
BASE = gl.Experiment(
    model="softmax", n_agents=6, n_new_agents=2, agents_per_round=3, rounds=4, local_steps=1, eval_every=2,
    eval_steps=(0, 1, 3), device="cpu",
)  # fmt: skip
