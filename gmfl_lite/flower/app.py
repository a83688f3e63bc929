"""The class as a federation: every agent on a computer of its own, joined by Flower (https://flower.ai).

`agent` is the Flower ClientApp that takes an agent's local meta steps on its own data, `server` the ServerApp that
averages, as gl.run does in one process: the same Experiment, seed for seed the same picks, batches and weights.
`write_app` makes the folder that `flwr run` takes. notebooks/10-real-federation.ipynb has all commands.
"""

import argparse
import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from flwr.app import ConfigRecord, Context, Message, Metadata, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from torch.utils._pytree import tree_map

from ..basics import checks
from ..basics.devices import PRECISIONS, choose_device
from ..basics.storage import expanded
from ..data import Dataset, load_dataset, load_images, outputs
from ..engine import estimate_settings, modestly, prepare_process
from ..evaluation import adaptation_curve
from ..experiment import Experiment, build_federation
from ..federation import Federation
from ..models import Predict, as_functions, build_model, cross_entropy, loss_of, moving
from ..objective import Params
from ..privacy import clip_and_add_noise
from ..trainer import batches_of, local_update
from .answers import pack, unpack
from .classroom import CLASSROOM, check_classroom, check_node, from_config, to_config
from .strategy import MetaFedAvg, log


def write_app(folder: str | Path, experiment: Experiment, **classroom: Any) -> Path:
    """Write the folder that `flwr run` takes: one pyproject.toml with the experiment, and return its path.

    Parameters
    ----------
    folder : is made; its name may hold letters, digits and hyphens.
    experiment : what the federation is to do; every setting can be changed later: `flwr run --run-config 'nu=1'`.
    classroom : values that differ from those in CLASSROOM.

    Raises
    ------
    ValueError : an unknown name or a wrong value in `classroom`, or an experiment of a subclass.
    """
    if type(experiment) is not Experiment:
        raise checks.refusal("experiment", type(experiment).__name__, "an Experiment itself: nodes know no subclass")
    config = "\n".join(f"{name} = {json.dumps(value)}" for name, value in to_config(experiment, **classroom).items())
    folder = expanded(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(_APP.format(config=config), encoding="utf-8")
    return folder


_APP = """[project]
name = "gmfl-classroom"
version = "1.0.0"
description = "Generalized meta federated learning, every agent on a computer of its own"
license = {{ text = "MIT" }}
dependencies = []  # gmfl_lite[flower] is installed on every computer beforehand

[tool.flwr.app]
publisher = "gmfl-lite"

[tool.flwr.app.components]
serverapp = "gmfl_lite.flower_app:server"
clientapp = "gmfl_lite.flower_app:agent"

[tool.flwr.app.config]
{config}
"""


agent = ClientApp()
"""The agent's side."""


def own_data(experiment: Experiment, node_config: Mapping[str, Any]) -> tuple[int, Federation]:
    """Return an agent's number, and a federation that holds its samples and nobody else's.

    Parameters
    ----------
    experiment : says how the dataset is dealt out and split.
    node_config : agent, the number; images, a folder of the agent's own images in place of its part of the dataset,
        one folder a class; invert, whether these are dark on light where the dataset is light on dark; clip_norm and
        noise, the agent's own in place of those in CLASSROOM.

    Raises
    ------
    ValueError : no number or a wrong one, or unsuitable images.
    """
    check_node(node_config)
    everybody = experiment.n_agents + experiment.n_new_agents
    number = node_config.get("agent", node_config.get("partition-id"))
    number = checks.integer("agent (in --node-config)", number, 0, everybody - 1)
    if "images" in node_config:
        dataset = load_images(
            node_config["images"], like=load_dataset(experiment.dataset), invert=node_config.get("invert", False)
        )
        whole = Federation.from_partition(
            dataset,
            [np.arange(len(dataset))],
            test_fraction=experiment.test_fraction,
            shots=experiment.shots,
            query=experiment.query,
            label_noise=experiment.label_noise,
            seed=experiment.seed,
            device=choose_device(experiment.device, experiment.precision),
        ).in_precision(experiment.precision)
        return number, whole.only(0, number)
    return number, build_federation(experiment).only(number)


def _received(message: Message, context: Context) -> tuple[Experiment, int, Federation, Any, Params]:
    prepare_process()
    secret = False
    try:
        experiment = from_config(context.run_config)
        check_node(context.node_config, check_classroom(context.run_config, experiment))
        secret = "images" in context.node_config
        number, federation = own_data(experiment, context.node_config)
    except (ValueError, OSError) as error:
        log("this agent cannot take part: %s", error)  # in the student's terminal
        if secret:  # Flower sends an error's text, and this one may name files
            raise ValueError("the agent's own images cannot be used: its terminal says why") from None
        raise
    predict, params = _model(experiment, federation, federation.x.device)
    return experiment, number, federation, predict, unpack(message.content["arrays"], params)


def _model(
    experiment: Experiment, agents: Dataset | Federation, device: str | torch.device = "cpu"
) -> tuple[Predict, Params]:
    model = build_model(experiment.model, agents, seed=experiment.seed)
    return as_functions(model, torch.device(device), PRECISIONS[experiment.precision])


@agent.train()
@modestly
def train(message: Message, context: Context) -> Message:
    """Take the round's local meta steps from the server's w; send w_i back, and how many samples it comes from."""
    experiment, number, federation, predict, params = _received(message, context)
    round = checks.integer("round", message.content["config"]["round"], 0)
    mine = batches_of(number, experiment, federation, round)
    w = params
    params, losses = local_update(cross_entropy(predict), w, mine, **estimate_settings(experiment, w))
    clip_norm, noise = check_node(context.node_config, check_classroom(context.run_config, experiment))
    if clip_norm:
        # Noise that others can draw, too, protects nobody; torch's generator keeps 32 bits of its seed.
        secret = np.random.default_rng(secrets.randbits(128))
        params = clip_and_add_noise(w, params, clip_norm=clip_norm, noise=noise, generator=secret)
    metrics = MetricRecord(
        {"agent": number, "samples": int(federation.train_sizes[number]), "loss": float(losses.mean())}
    )
    return Message(RecordDict({"arrays": pack(params), "metrics": metrics}), reply_to=message)


def one_answer(experiment: Experiment, node_config: Mapping[str, Any], **classroom: Any) -> Message:
    """Return what an agent sends in the first round: the very message, made here, without a network."""
    _, params = _model(experiment, load_dataset(experiment.dataset))
    content = RecordDict({"arrays": pack(params), "config": ConfigRecord({"round": 0})})
    # As it would reach the node; Message's other arguments ask for a run that is under way.
    address = Metadata(0, "", 0, 1, "", "", time.time(), 60.0, "train")
    message = Message(content, metadata=address)  # type: ignore[call-overload]
    context = Context(0, 1, dict(node_config), RecordDict(), to_config(experiment, **classroom))
    return agent(message, context)


def contents(message: Message) -> pd.DataFrame:
    """Return all that a message holds, a row for each entry: name, type, shape, bytes, and the value if it is short."""
    rows = []
    for record, entries in message.content.items():
        for name, value in entries.items():
            array = value.numpy() if hasattr(value, "numpy") else np.asarray(value)
            short = "…" if array.size > 1 else f"{value:.4g}" if isinstance(value, float) else str(value)
            rows.append((f"{record}/{name}", str(array.dtype), str(list(array.shape)), array.nbytes, short))
    return pd.DataFrame(rows, columns=["name", "type", "shape", "bytes", "value"]).set_index("name")


@agent.evaluate()
@modestly
def evaluate(message: Message, context: Context) -> Message:
    """Score w on this agent's own scored samples after 0, 1, … fine-tuning steps on its training samples."""
    experiment, number, federation, predict, params = _received(message, context)
    me = torch.tensor([number], device=federation.x.device)
    data = tree_map(lambda tensor: tensor[0], (federation.fine_tune_sets(me), federation.test_sets(me)))
    part, lr = moving(params, experiment.personal), experiment.fine_tune_lr
    curve = adaptation_curve(loss_of(predict), params, data, steps=experiment.eval_steps, lr=lr, moving=part)
    scores = {name: values.tolist() for name, values in curve.items()}
    metrics = MetricRecord({"agent": number, "samples": int(federation.sizes[number]), **scores})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


server = ServerApp()
"""The server's side."""


@server.main()
def serve(grid: Grid, context: Context) -> None:
    """Wait for the agents, train, and save after every round a Result as gl.run returns it, and who took part."""
    experiment = from_config(context.run_config)
    config = check_classroom(context.run_config, experiment)
    seconds = float(config["round_seconds"])
    dataset, problem = load_dataset(experiment.dataset), None
    _, start = _model(experiment, dataset)
    bound = {name: config[name] for name in ("clip_norm", "noise")}
    strategy = MetaFedAvg(experiment, seconds, start, outputs(dataset), config["save"], **bound)
    everybody = experiment.n_agents + experiment.n_new_agents
    try:
        strategy.wait_for(config["agents_to_wait_for"] or everybody, grid)
        strategy.start(grid, strategy.arrays, experiment.rounds, timeout=seconds)
    except FloatingPointError as error:
        problem = error
    result = strategy.save(problem)
    table = result.table().round(3) if len(result.history) else "nobody was scored"
    log("%s", strategy.promise() or "privacy: updates came as they are, neither clipped nor blurred")
    where = strategy.saved or "nothing: no disk took it"
    log("%s\n%s\n%s\nsaved as %s", strategy.took_part.to_string(index=False), table, result, where)


def main(arguments: list[str] | None = None) -> None:
    """Write the app for `flwr run`, as `python -m gmfl_lite.flower_app` does."""
    parser = argparse.ArgumentParser(prog="python -m gmfl_lite.flower_app", description="Write the app for `flwr run`.")
    parser.add_argument("folder", help="to write, for example classroom")
    parser.add_argument("--experiment", default="{}", help="settings that differ from Experiment()'s, as JSON")
    for name, value in CLASSROOM.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    given = vars(parser.parse_args(arguments))
    print(write_app(given.pop("folder"), Experiment.from_dict(json.loads(given.pop("experiment"))), **given))
