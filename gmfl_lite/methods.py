"""The field's methods by name, as the settings of an Experiment that they mean."""

from typing import Any

from .server import SERVER_STEPS


def _method(**changes: Any) -> dict[str, Any]:
    """Return all settings that make a method: what it leaves open is FedAvg's."""
    server = SERVER_STEPS[changes.get("server", "average")]
    plain = {
        "nu": 0,
        "gradient": "exact",
        "backprop_steps": None,
        "server": server.name,
        "server_lr": server.usual_lr,
        "proximal": 0.0,
        "personal": "all",
    }
    return {**plain, **changes}


methods: dict[str, dict[str, Any]] = {
    # McMahan, Moore, Ramage, Hampson, Agüera y Arcas, AISTATS 2017
    "FedAvg": _method(),
    # Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, MLSys 2020
    "FedProx": _method(proximal=0.1),
    # Hsu, Qi, Brown, arXiv 1909.06335, 2019
    "FedAvgM": _method(server="momentum"),
    # Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan, ICLR 2021
    "FedAdam": _method(server="adam"),
    # Nichol, Achiam, Schulman, arXiv 1803.02999, 2018: one step along the way that three fine-tuning steps go
    "Reptile": _method(nu=3, gradient="reptile", local_steps=1),
    # Fallah, Mokhtari, Ozdaglar, NeurIPS 2020
    "Per-FedAvg": _method(nu=1),
    "Per-FedAvg (first-order)": _method(nu=1, gradient="first_order"),
    "Per-FedAvg (Hessian-free)": _method(nu=1, gradient="hessian_free"),
    # Jamali, Saber, Bae, arXiv 2504.21327, 2025: any ν
    "Generalized (ν = 3)": _method(nu=3),
    # Raghu, Raghu, Bengio, Vinyals, ICLR 2020: MAML, here Per-FedAvg, that fine-tunes the last layer alone
    "ANIL": _method(nu=1, personal="head"),
    # Every agent fine-tunes the initial weights: one step of one agent, too small to change a digit, is no training
    "no training": _method(rounds=1, agents_per_round=1, local_steps=1, meta_lr=1e-300),
    # FedAvg's model as it is, without fine-tuning
    "one model for all": _method(eval_steps=(0,)),
}
"""Name -> settings for `Experiment.replace`, so that a comparison is a loop over names.

They say nothing of the agents, the model, the rounds or the step sizes, which are for `base` to say and best tuned for
each method; `server_lr` is a usual one. The last two are what any method has to beat.

>>> import gmfl_lite as gl
>>> base = gl.Experiment(model="softmax", rounds=2)
>>> runs = {name: gl.run(base.replace(**gl.methods[name]), progress=False) for name in ("FedAvg", "Per-FedAvg")}
>>> [run.experiment.nu for run in runs.values()]
[0, 1]
"""
