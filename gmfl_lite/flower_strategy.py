"""What the server of a federation does with Flower: pick, ask, average, log who took part."""

import time
from collections.abc import Iterable
from logging import getLogger
from typing import Any

import numpy as np
import pandas as pd
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from . import randomness
from .evaluation import AGENT_COLUMNS, summarise
from .experiment import Experiment
from .objective import Params
from .runner import HISTORY_COLUMNS, Result
from .trainer import aggregate

log = getLogger("flwr").info


class MetaFedAvg(Strategy):
    """Flower's name for what a server does: pick agents as gl.run does, average as gl.run does, log who took part.

    A round ends when all who were asked have answered, or after `seconds`, with those who have. Who has not answered is
    asked again only after a new sign of life (Flower's heartbeat, every half minute), so that one dead computer does
    not hold up every round. Newcomers are asked from the next round on. Where an agent is away, the next in the round's
    drawn order takes its place.
    """

    def __init__(self, experiment: Experiment, seconds: float) -> None:
        self.experiment, self.seconds = experiment, seconds
        self.agents: dict[int, int] = {}
        self.asked: list[int] = []
        self.length = 0
        self.silent: dict[int, float] = {}
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
        questions = [self.message({"arrays": arrays}, node, MessageType.EVALUATE) for node in nodes]
        answers = list(grid.send_and_receive(questions, timeout=self.seconds))
        for reply in answers:
            if reply.has_error():
                log("a newcomer could not take part: %s", reply.error.reason)
            else:
                self.agents[reply.metadata.src_node_id] = int(reply.content["metrics"]["agent"])
        self.silence(set(nodes) - senders(answers), grid)
        return answers

    def present(self, grid: Grid, arrays: ArrayRecord) -> dict[int, int]:
        """Return the node of every agent that can be asked; where two say they are the same agent, the later one."""
        signs = signs_of_life(grid)
        self.silent = {node: sign for node, sign in self.silent.items() if signs.get(node, sign) <= sign}
        if new := [node for node in signs if node not in self.agents and node not in self.silent]:
            self.meet(new, grid, arrays)
        return {agent: node for node, agent in self.agents.items() if node in signs and node not in self.silent}

    def silence(self, nodes: Iterable[int], grid: Grid) -> None:
        """Note who has not answered in time."""
        signs = signs_of_life(grid)
        self.silent |= {node: signs.get(node, 0.0) for node in nodes}

    def message(self, content: dict[str, Any], node: int, kind: str) -> Message:
        return Message(RecordDict(content), dst_node_id=node, message_type=kind, ttl=self.seconds)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        present = self.present(grid, arrays)
        key = randomness.keys(self.experiment.seed, "picks", server_round - 1, torch.zeros((), dtype=torch.int64))
        n_agents = self.experiment.n_agents
        drawn = randomness.choose(key, torch.tensor(n_agents), n_agents, n_agents).tolist()
        picked = [agent for agent in drawn if agent in present][: self.experiment.agents_per_round]
        self.asked, self.length, self.grid = [present[agent] for agent in picked], len(vector(arrays)), grid
        content = {"arrays": arrays, "config": ConfigRecord({"round": server_round - 1})}
        return [self.message(content, node, MessageType.TRAIN) for node in self.asked]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        answers, replies = {}, list(replies)
        self.silence(set(self.asked) - senders(replies), self.grid)
        for reply in replies:
            problem = reply.error.reason if reply.has_error() else _unfit(reply.content, self.length)
            if problem:
                log("agent %s is left out: %s", self.agents.get(reply.metadata.src_node_id, "?"), problem)
            else:
                answers[reply.metadata.src_node_id] = reply.content
        lists = self.asked, answers, set(self.asked) - set(answers)
        everybody, here, missing = (sorted(self.agents[node] for node in nodes) for nodes in lists)
        row = {"round": server_round, "asked": _list(everybody), "took_part": _list(here), "missing": _list(missing)}
        self.rounds.append(row)
        log("round %(round)d: asked %(asked)s; took part: %(took_part)s; missing: %(missing)s", row)
        if not answers:
            return None, None
        in_order = [answers[node] for node in self.asked if node in answers]
        updates = torch.stack([vector(content["arrays"]) for content in in_order])
        samples = torch.tensor([content["metrics"]["samples"] for content in in_order])
        average = aggregate({"w": updates}, samples if self.experiment.weighting == "samples" else None)
        loss = float(np.mean([content["metrics"]["loss"] for content in in_order]))
        return pack(average), MetricRecord({"loss": loss, "agents": len(in_order)})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if server_round % self.experiment.eval_every and server_round < self.experiment.rounds:
            return []
        nodes = self.present(grid, arrays).values()
        return [self.message({"arrays": arrays}, node, MessageType.EVALUATE) for node in nodes]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        rows = []
        for reply in replies:
            try:
                rows += self.rows_of(reply)
            except (ValueError, KeyError, TypeError) as error:  # an answer may come from anybody
                log("agent %s was not scored: %s", self.agents.get(reply.metadata.src_node_id, "?"), error)
        if not rows:
            return None
        scores = pd.DataFrame(rows, columns=list(AGENT_COLUMNS)).astype(AGENT_COLUMNS)
        self.scores = scores.sort_values(["agent", "fine_tune_steps"], ignore_index=True)
        curve = summarise(self.scores).assign(round=server_round)
        self.history = pd.concat([self.history, curve], ignore_index=True)[list(HISTORY_COLUMNS)]
        means = curve.pivot(index="group", columns="fine_tune_steps", values="accuracy").round(3)
        log("round %d: accuracy after so many fine-tuning steps\n%s", server_round, means.to_string())
        return MetricRecord({"accuracy": curve["accuracy"].tolist()})

    def rows_of(self, reply: Message) -> list[tuple]:
        """Return the scores in an answer, a row for each number of fine-tuning steps."""
        metrics = reply.content["metrics"]
        group = "trained" if metrics["agent"] < self.experiment.n_agents else "new"
        curve = zip(self.experiment.eval_steps, metrics["loss"], metrics["accuracy"], strict=True)
        return [(metrics["agent"], group, metrics["samples"], *point) for point in curve]

    def result(self, params: Params) -> Result:
        """Return the federation's run as gl.run would."""
        done = self.experiment.rounds
        history = self.history.astype(HISTORY_COLUMNS)
        message = f"all {done} rounds"
        return Result(self.experiment, "completed", message, "Flower", done, params, history, self.scores)


def pack(params: Params) -> ArrayRecord:
    """Return parameters as what is sent: one vector, as every array on its own costs Flower several requests."""
    flat = torch.cat([tensor.detach().cpu().flatten() for tensor in params.values()])
    return ArrayRecord({"w": Array(flat.numpy())})


def vector(arrays: ArrayRecord) -> torch.Tensor:
    """Return the vector that was sent."""
    return torch.from_numpy(arrays["w"].numpy().copy())


def unpack(arrays: ArrayRecord, like: Params) -> Params:
    """Return the parameters that were sent, with the names, shapes and device of others."""
    parts = vector(arrays).split([tensor.numel() for tensor in like.values()])
    return {name: part.reshape(like[name].shape).to(like[name]) for name, part in zip(like, parts, strict=True)}


def _unfit(content: RecordDict, length: int) -> str:
    """Say what is wrong with an answer, which may come from anybody."""
    try:
        params, samples = vector(content["arrays"]), content["metrics"]["samples"]
        float(content["metrics"]["loss"])
    except (KeyError, ValueError, TypeError) as error:
        return f"its answer cannot be read ({error!r})"
    if params.shape != (length,) or params.dtype != torch.float32:
        return f"it sent {params.dtype} {list(params.shape)}, not {length} float32 numbers"
    if not params.isfinite().all():
        return "its parameters are not finite: a smaller meta_lr or fine_tune_lr may help"
    return "" if isinstance(samples, int) and samples > 0 else f"it claims to hold {samples!r} samples"


def signs_of_life(grid: Grid) -> dict[int, float]:
    """Return, for every connected node, until when its last heartbeat keeps it connected."""
    return {node.node_id: node.online_until for node in grid.get_nodes()}


def senders(replies: Iterable[Message]) -> set[int]:
    """Return who has answered."""
    return {reply.metadata.src_node_id for reply in replies}


def _list(agents: list[int]) -> str:
    return " ".join(map(str, agents)) or "-"
