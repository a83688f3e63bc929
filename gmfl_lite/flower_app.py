"""The class as a federation: every agent on a computer of its own, joined by Flower (https://flower.ai).

`agent` is the Flower ClientApp that takes an agent's local meta steps on its own data, `server` the ServerApp that
averages, as gl.run does in one process: the same Experiment, seed for seed the same picks, batches and weights.
`write_app` makes the folder that `flwr run` takes. notebooks/10-real-federation.ipynb has all commands.
"""

import dataclasses
import json
import time
from collections.abc import Iterable, Mapping
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy
from torch.utils._pytree import tree_map

from . import checks, images, randomness
from .data import load_dataset
from .evaluation import AGENT_COLUMNS, adaptation_curve, summarise
from .experiment import Experiment, build_federation, choose_device
from .federation import Federation, IndexTable
from .models import as_functions, build_model, cross_entropy
from .objective import Params
from .runner import HISTORY_COLUMNS, Result
from .trainer import aggregate, estimate_settings, local_update

CLASSROOM = {"round_seconds": 60.0, "agents_to_wait_for": 0, "save": "federation.result"}
"""How long a round waits for answers; how many agents the first one waits for (0: all); the result's file."""

log = getLogger("flwr").info


def write_app(folder: str | Path, experiment: Experiment, **classroom: Any) -> Path:
    """Write the folder that `flwr run` takes: one pyproject.toml with the experiment, and return its path.

    Parameters
    ----------
    folder : is made; its name may hold letters, digits and hyphens.
    experiment : what the federation is to do; every setting can be changed later: `flwr run --run-config 'nu=1'`.
    classroom : round_seconds, agents_to_wait_for (0: all of the experiment's), save: see CLASSROOM.

    Raises
    ------
    ValueError : an unknown name in `classroom`.
    """
    for name in classroom:
        checks.choice("classroom setting", name, tuple(CLASSROOM))
    config = "\n".join(f"{name} = {json.dumps(value)}" for name, value in to_config(experiment, **classroom).items())
    folder = Path(folder)
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


def to_config(experiment: Experiment, **classroom: Any) -> dict[str, Any]:
    """Return an experiment as Flower's run config, which knows no lists and no None: those are written as JSON.

    >>> to_config(Experiment(batch_size=None))["batch_size"], to_config(Experiment())["eval_steps"]
    ('null', '[0, 1, 3, 5, 10]')
    """
    settings = experiment.to_dict()
    plain = {name: value if isinstance(value, (int, float, str)) else json.dumps(value) for name, value in settings.items()}
    return {**plain, **CLASSROOM, **classroom}


def from_config(config: Mapping[str, Any]) -> Experiment:
    """Return the experiment in a run config.

    >>> from_config(to_config(Experiment(nu=5, batch_size=None))) == Experiment(nu=5, batch_size=None)
    True
    """
    settings = {}
    for spec in dataclasses.fields(Experiment):
        if spec.name in config:
            value = config[spec.name]
            as_json = isinstance(value, str) and not isinstance(spec.default, str)
            settings[spec.name] = json.loads(value) if as_json else value
    return Experiment.from_dict(settings)


# The agent's side ------------------------------------------------------------------------------------------------------

agent = ClientApp()


def own_data(experiment: Experiment, node_config: Mapping[str, Any]) -> tuple[int, Federation]:
    """Return an agent's number, and a federation that holds its samples and nobody else's.

    Parameters
    ----------
    experiment : says how the dataset is dealt out and split.
    node_config : agent, the number; images, a folder of the agent's own images in place of its part of the dataset,
        one folder a class; invert, whether these are dark on light where the dataset is light on dark.

    Raises
    ------
    ValueError : no number or a wrong one, or unsuitable images.
    """
    everybody = experiment.n_agents + experiment.n_new_agents
    number = node_config.get("agent", node_config.get("partition-id"))
    number = checks.integer("agent (in --node-config)", number, 0, everybody - 1)
    if "images" in node_config:
        dataset = images.load(
            node_config["images"], like=load_dataset(experiment.dataset), invert=bool(node_config.get("invert", False))
        )
        whole = Federation.from_partition(
            dataset,
            [np.arange(len(dataset))],
            test_fraction=experiment.test_fraction,
            seed=experiment.seed,
            device=choose_device(experiment.device),
        )
        parts = whole.train(0), whole.test(0)
    else:
        whole = build_federation(experiment)
        parts = whole.train(number), whole.test(number)
    (x, y), (test_x, test_y) = parts
    # The batches are a function of the agent's number, so it keeps its row; those of the others are empty.
    nobody = [np.empty(0, np.int64)] * number
    train = IndexTable.from_lists([*nobody, np.arange(len(x))], x.device)
    test = IndexTable.from_lists([*nobody, len(x) + np.arange(len(test_x))], x.device)
    samples = torch.cat([x, test_x]), torch.cat([y, test_y])
    return number, Federation(*samples, whole.classes, train, test, 0, np.zeros(number + 1))


def _received(message: Message, context: Context) -> tuple[Experiment, int, Federation, Any, Params]:
    experiment = from_config(context.run_config)
    number, federation = own_data(experiment, context.node_config)
    predict, params = as_functions(build_model(experiment.model, federation, seed=experiment.seed), federation.x.device)
    sent = message.content["arrays"].to_torch_state_dict()
    return experiment, number, federation, predict, {name: sent[name].to(params[name].device) for name in params}


@agent.train()
def train(message: Message, context: Context) -> Message:
    """Take the round's local meta steps from the server's w; send w_i back, and how many samples it comes from."""
    experiment, number, federation, predict, params = _received(message, context)
    batches = federation.batches(
        torch.tensor([number], device=federation.x.device),
        nu=experiment.nu,
        local_steps=experiment.local_steps,
        batch_size=experiment.batch_size,
        seed=experiment.seed,
        round=message.content["config"]["round"],
    )
    mine = tree_map(lambda tensor: tensor[0], batches)
    params, losses = local_update(cross_entropy(predict), params, mine, **estimate_settings(experiment))
    metrics = MetricRecord(
        {"agent": number, "samples": int(federation.train_sizes[number]), "loss": float(losses.mean())}
    )
    arrays = ArrayRecord({name: tensor.cpu() for name, tensor in params.items()})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@agent.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score w on this agent's own scored samples after 0, 1, … fine-tuning steps on its training samples."""
    experiment, number, federation, predict, params = _received(message, context)
    me = torch.tensor([number], device=federation.x.device)
    data = tree_map(lambda tensor: tensor[0], (federation.train_sets(me), federation.test_sets(me)))
    scores = adaptation_curve(predict, params, data, steps=experiment.eval_steps, lr=experiment.fine_tune_lr)
    loss, accuracy = (values.tolist() for values in scores)
    metrics = MetricRecord(
        {"agent": number, "samples": int(federation.sizes[number]), "loss": loss, "accuracy": accuracy}
    )
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


# The server's side -----------------------------------------------------------------------------------------------------

server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Wait for the agents, train, and save a Result as gl.run returns it, with a table of who took part beside it."""
    config = {**CLASSROOM, **context.run_config}
    experiment, seconds = from_config(config), float(config["round_seconds"])
    model = build_model(experiment.model, load_dataset(experiment.dataset), seed=experiment.seed)
    arrays = ArrayRecord(as_functions(model, torch.device("cpu"))[1])
    strategy = MetaFedAvg(experiment, seconds)
    everybody = experiment.n_agents + experiment.n_new_agents
    strategy.wait_for(int(config["agents_to_wait_for"]) or everybody, grid, arrays)
    trained = strategy.start(grid, arrays, experiment.rounds, timeout=seconds).arrays or arrays
    result = strategy.result(trained.to_torch_state_dict())
    result.save(config["save"])
    strategy.took_part.to_csv(f"{config['save']}.rounds.csv", index=False)
    log("%s\n%s\nsaved as %s", strategy.took_part.to_string(index=False), result.table().round(3), config["save"])


class MetaFedAvg(Strategy):
    """Flower's name for what a server does: pick agents as gl.run does, average as gl.run does, log who took part.

    A round ends when all who were asked have answered, or after `seconds`, with those who have. Who has not answered
    sits the next round out, so that one dead computer does not hold up every round; a newcomer, or somebody who is
    back, is asked from the next round on. Where an agent is away, the next in the round's drawn order takes its place.
    """

    def __init__(self, experiment: Experiment, seconds: float) -> None:
        self.experiment, self.seconds = experiment, seconds
        self.agents: dict[int, int] = {}
        self.asked: list[int] = []
        self.sent: Params = {}
        self.silent: set[int] = set()
        self.rounds: list[dict[str, Any]] = []
        self.scores = pd.DataFrame(columns=list(AGENT_COLUMNS)).astype(AGENT_COLUMNS)
        self.history = pd.DataFrame(columns=list(HISTORY_COLUMNS)).astype(HISTORY_COLUMNS)

    @property
    def took_part(self) -> pd.DataFrame:
        """One row a round: which agents were asked, whose updates were averaged, and who is missing."""
        return pd.DataFrame(self.rounds, columns=["round", "asked", "took_part", "missing"])

    def summary(self) -> None:
        log("\t└──> %s", self.experiment)

    def wait_for(self, agents: int, grid: Grid, arrays: ArrayRecord) -> None:
        """Wait until so many agents are connected; their scores of the initial w are the curve of round 0."""
        while len(here := list(grid.get_node_ids())) < agents:
            log("%d of %d agents are here", len(here), agents)
            time.sleep(2)
        self.aggregate_evaluate(0, self.meet(here, grid, arrays))

    def meet(self, nodes: list[int], grid: Grid, arrays: ArrayRecord) -> list[Message]:
        """Let newcomers score w, and learn from their answers which agents they are."""
        new = [self.message({"arrays": arrays}, node, MessageType.EVALUATE) for node in nodes]
        answers = []
        for reply in grid.send_and_receive(new, timeout=self.seconds):
            if reply.has_error():
                log("a newcomer could not take part: %s", reply.error.reason)
            else:
                self.agents[reply.metadata.src_node_id] = int(reply.content["metrics"]["agent"])
                answers.append(reply)
        return answers

    def present(self, grid: Grid, arrays: ArrayRecord) -> dict[int, int]:
        """Return the node of every agent that is connected; where two say they are the same agent, the later one."""
        nodes = list(grid.get_node_ids())
        if new := [node for node in nodes if node not in self.agents]:
            self.meet(new, grid, arrays)
        return {agent: node for node, agent in self.agents.items() if node in nodes}

    def message(self, content: dict[str, Any], node: int, kind: str) -> Message:
        return Message(RecordDict(content), dst_node_id=node, message_type=kind, ttl=self.seconds)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        present = {agent: node for agent, node in self.present(grid, arrays).items() if node not in self.silent}
        self.silent = set()
        key = randomness.keys(self.experiment.seed, "picks", server_round - 1, torch.zeros((), dtype=torch.int64))
        n_agents = self.experiment.n_agents
        drawn = randomness.choose(key, torch.tensor(n_agents), n_agents, n_agents).tolist()
        picked = [agent for agent in drawn if agent in present][: self.experiment.agents_per_round]
        self.asked, self.sent = [present[agent] for agent in picked], arrays.to_torch_state_dict()
        content = {"arrays": arrays, "config": ConfigRecord({"round": server_round - 1})}
        return [self.message(content, node, MessageType.TRAIN) for node in self.asked]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        answers = {}
        for reply in replies:
            problem = reply.error.reason if reply.has_error() else _unfit(reply.content, self.sent)
            if problem:
                log("agent %d is left out: %s", self.agents[reply.metadata.src_node_id], problem)
            else:
                answers[reply.metadata.src_node_id] = reply.content
        self.silent = set(self.asked) - set(answers)
        everybody, here, missing = (
            sorted(self.agents[node] for node in nodes) for nodes in (self.asked, answers, self.silent)
        )
        row = {"round": server_round, "asked": _list(everybody), "took_part": _list(here), "missing": _list(missing)}
        self.rounds.append(row)
        log("round %(round)d: asked %(asked)s; took part: %(took_part)s; missing: %(missing)s", row)
        if not answers:
            return None, None
        in_order = [answers[node] for node in self.asked if node in answers]
        updates = [content["arrays"].to_torch_state_dict() for content in in_order]
        stacked = {name: torch.stack([update[name] for update in updates]) for name in updates[0]}
        samples = torch.tensor([content["metrics"]["samples"] for content in in_order])
        average = aggregate(stacked, samples if self.experiment.weighting == "samples" else None)
        loss = float(np.mean([content["metrics"]["loss"] for content in in_order]))
        return ArrayRecord(average), MetricRecord({"loss": loss, "agents": len(in_order)})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if server_round % self.experiment.eval_every and server_round < self.experiment.rounds:
            return []
        nodes = [node for node in self.present(grid, arrays).values() if node not in self.silent]
        return [self.message({"arrays": arrays}, node, MessageType.EVALUATE) for node in nodes]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        rows = []
        for reply in replies:
            if reply.has_error():
                log("agent %d was not scored: %s", self.agents[reply.metadata.src_node_id], reply.error.reason)
                continue
            metrics = reply.content["metrics"]
            group = "trained" if metrics["agent"] < self.experiment.n_agents else "new"
            for steps, loss, accuracy in zip(
                self.experiment.eval_steps, metrics["loss"], metrics["accuracy"], strict=True
            ):
                rows.append((metrics["agent"], group, metrics["samples"], steps, loss, accuracy))
        if not rows:
            return None
        scores = pd.DataFrame(rows, columns=list(AGENT_COLUMNS)).astype(AGENT_COLUMNS)
        self.scores = scores.sort_values(["agent", "fine_tune_steps"], ignore_index=True)
        curve = summarise(self.scores).assign(round=server_round)
        self.history = pd.concat([self.history, curve], ignore_index=True)[list(HISTORY_COLUMNS)]
        means = curve.pivot(index="group", columns="fine_tune_steps", values="accuracy").round(3)
        log("round %d: accuracy after so many fine-tuning steps\n%s", server_round, means.to_string())
        return MetricRecord({"accuracy": curve["accuracy"].tolist()})

    def result(self, params: Params) -> Result:
        """Return the federation's run as gl.run would."""
        done = self.experiment.rounds
        history = self.history.astype(HISTORY_COLUMNS)
        message = f"all {done} rounds"
        return Result(self.experiment, "completed", message, "Flower", done, params, history, self.scores)


def _unfit(content: RecordDict, sent: Params) -> str:
    """Say what is wrong with an answer, which may come from anybody."""
    try:
        params, samples = content["arrays"].to_torch_state_dict(), content["metrics"]["samples"]
    except (KeyError, ValueError, TypeError) as error:
        return f"its answer cannot be read ({error!r})"
    if {name: tensor.shape for name, tensor in params.items()} != {name: tensor.shape for name, tensor in sent.items()}:
        return "its parameters have other names or shapes than the model's"
    if not all(tensor.isfinite().all() for tensor in params.values()):
        return "its parameters are not finite: a smaller meta_lr or fine_tune_lr may help"
    return "" if isinstance(samples, int) and samples > 0 else f"it claims to hold {samples!r} samples"


def _list(agents: list[int]) -> str:
    return " ".join(map(str, agents)) or "-"
