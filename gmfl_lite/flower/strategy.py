"""What the server of a federation does with Flower: pick, ask, average, log who took part."""

import math
import time
from collections.abc import Iterable
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from ..aggregation import aggregate
from ..basics import checks
from ..basics.devices import PRECISIONS
from ..evaluation import AGENT_COLUMNS, summarise, those_of
from ..experiment import Experiment
from ..objective import NonFiniteLoss, Params
from ..result import HISTORY_COLUMNS, Result
from ..server import Memory, check_round, loss_limit, pick_agents, server_step

log = getLogger("flwr").info

_OF_AGENTS, _OF_HISTORY = (those_of(columns, ["accuracy"]) for columns in (AGENT_COLUMNS, HISTORY_COLUMNS))


class MetaFedAvg(Strategy):
    """Flower's name for what a server does: pick agents as gl.run does, average as gl.run does, log who took part.

    A round ends when all who were asked have answered, or after `seconds`, with those who have. Who has not answered is
    asked again only after a new sign of life (Flower's heartbeat, every half minute), so that one dead computer does
    not hold up every round. Newcomers are asked from the next round on. Where an agent is away, the next in the round's
    drawn order takes its place. What there is so far is saved after every round.
    """

    def __init__(self, experiment: Experiment, seconds: float, start: Params, classes: int, save: str | Path) -> None:
        self.experiment, self.seconds, self.like, self.path = experiment, seconds, start, save
        self.arrays, self.classes, self.limit = pack(start), classes, loss_limit(math.log(classes), 0.0)
        self.memory: Memory = {}
        self.agents: dict[int, int] = {}
        self.met: dict[int, Message] = {}
        self.renamed: set[int] = set()
        self.asked: list[int] = []
        self.answered = 0
        self.silent: dict[int, float] = {}
        self.rounds: list[dict[str, Any]] = []
        self.scores = pd.DataFrame(columns=list(_OF_AGENTS)).astype(_OF_AGENTS)
        self.history = pd.DataFrame(columns=list(_OF_HISTORY)).astype(_OF_HISTORY)

    @property
    def took_part(self) -> pd.DataFrame:
        """One row a round: which agents were asked, whose updates were averaged, and who is missing."""
        return pd.DataFrame(self.rounds, columns=["round", "asked", "took_part", "missing"])

    def summary(self) -> None:
        log("\t└──> %s", self.experiment)

    def wait_for(self, agents: int, grid: Grid) -> None:
        """Wait until so many agents are connected; their scores of the initial w are the curve of round 0."""
        while len(here := self.present(grid)) < agents:
            log("%d of %d agents are here: %s", len(here), agents, _list(sorted(here)))
            time.sleep(2)
        self.aggregate_evaluate(0, [self.met[node] for node in here.values()])
        at_start = self.scores.loc[self.scores["fine_tune_steps"] == 0, "loss"]
        self.limit = loss_limit(math.log(self.classes), at_start.mean() if len(at_start) else 0.0)

    def meet(self, nodes: list[int], grid: Grid) -> None:
        """Let newcomers score w, and learn from their answers which agents they are."""
        questions = [self.message({"arrays": self.arrays}, node, MessageType.EVALUATE) for node in nodes]
        for reply in grid.send_and_receive(questions, timeout=self.seconds):
            node = reply.metadata.src_node_id
            try:
                number = read_answer(reply, self.experiment)[0]["agent"]
            except (ValueError, FloatingPointError) as error:
                if reply.has_error() or isinstance(error, ValueError):
                    log("a newcomer cannot take part: %.500s", error)
                    continue
                number = reply.content["metrics"]["agent"]  # it is here, though w is of no use to it
            if number in self.agents.values():
                log("another computer says that it is agent %d: the later one is asked as long as it is here", number)
            self.agents[node], self.met[node] = number, reply
        self.silence(set(nodes) - set(self.agents), grid)  # a refused answer is asked for again as rarely as none

    def present(self, grid: Grid) -> dict[int, int]:
        """Return the node of every agent that can be asked; where two say they are the same agent, the later one."""
        signs = signs_of_life(grid)
        self.agents = {node: agent for node, agent in self.agents.items() if node not in self.renamed}
        self.renamed.clear()
        self.silent = {node: sign for node, sign in self.silent.items() if signs.get(node, sign) <= sign}
        if new := [node for node in signs if node not in self.agents and node not in self.silent]:
            self.meet(new, grid)
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
        self.grid, present = grid, self.present(grid)
        n_agents = self.experiment.n_agents
        drawn = pick_agents(n_agents, n_agents, self.experiment.seed, server_round - 1).tolist()
        picked = [agent for agent in drawn if agent in present][: self.experiment.agents_per_round]
        self.asked = [present[agent] for agent in picked]
        content = {"arrays": arrays, "config": ConfigRecord({"round": server_round - 1})}
        return [self.message(content, node, MessageType.TRAIN) for node in self.asked]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        self.silence(set(self.asked) - senders(replies), self.grid)
        answers, not_finite = self.usable(replies, len(vector(self.arrays)))
        lists = self.asked, answers, set(self.asked) - set(answers)
        everybody, here, missing = (sorted(self.agents[node] for node in nodes) for nodes in lists)
        row = {"round": server_round, "asked": _list(everybody), "took_part": _list(here), "missing": _list(missing)}
        self.rounds.append(row)
        log("round %(round)d: asked %(asked)s; took part: %(took_part)s; missing: %(missing)s", row)
        if not answers:
            if not_finite:
                raise FloatingPointError(f"no agent's update can be used: {not_finite}")
            return None, None
        in_order = [answers[node] for node in self.asked if node in answers]
        loss = float(np.mean([metrics["loss"] for metrics, _ in in_order]))
        samples = torch.tensor([metrics["samples"] for metrics, _ in in_order])
        by_size = self.experiment.weighting == "samples"
        updates = {"w": torch.stack([update for _, update in in_order])}
        average = aggregate(updates, samples if by_size else None, aggregation=self.experiment.aggregation)
        w, mean = unpack(self.arrays, self.like), named(average["w"], self.like)
        server, server_lr = self.experiment.server, self.experiment.server_lr
        after, memory = server_step(w, mean, self.memory, server=server, server_lr=server_lr)
        check_round(loss, after, self.limit)
        self.arrays, self.memory, self.answered = pack(after), memory, self.answered + 1
        return self.arrays, MetricRecord({"loss": loss, "agents": len(in_order)})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if server_round % self.experiment.eval_every and server_round < self.experiment.rounds:
            return []
        nodes = self.present(grid).values()
        return [self.message({"arrays": arrays}, node, MessageType.EVALUATE) for node in nodes]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        answers, not_finite = self.usable(replies)
        if not answers:
            if not_finite:
                raise FloatingPointError(f"no agent's scores can be used: {not_finite}")
            self.save()
            return None
        rows = [row for metrics, _ in answers.values() for row in self.rows_of(metrics)]
        scores = pd.DataFrame(rows, columns=list(_OF_AGENTS)).astype(_OF_AGENTS)
        self.scores = scores.sort_values(["agent", "fine_tune_steps"], ignore_index=True)
        curve = summarise(self.scores).assign(round=server_round)
        self.history = pd.concat([self.history, curve], ignore_index=True)[list(_OF_HISTORY)]
        self.save()
        means = curve.pivot(index="group", columns="fine_tune_steps", values="accuracy").round(3)
        log("round %d: accuracy after so many fine-tuning steps\n%s", server_round, means.to_string())
        return MetricRecord({"accuracy": curve["accuracy"].tolist()})

    def usable(
        self, replies: Iterable[Message], length: int = 0
    ) -> tuple[dict[int, tuple[dict[str, Any], torch.Tensor]], str]:
        """Return what can be used of the answers, by node, and the last reason of those that are not finite."""
        found, not_finite = {}, ""
        for reply in replies:
            node = reply.metadata.src_node_id
            try:
                metrics, update = read_answer(reply, self.experiment, length)
                if metrics["agent"] != self.agents.get(node):
                    self.renamed.add(node)
                    raise ValueError(f"it says now that it is agent {metrics['agent']}")
                found[node] = metrics, update
            except (ValueError, FloatingPointError) as error:
                log("agent %s is left out: %.500s", self.agents.get(node, "?"), error)
                not_finite = str(error) if isinstance(error, FloatingPointError) else not_finite
        return found, not_finite

    def rows_of(self, metrics: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Return the scores in an answer, a row for each number of fine-tuning steps."""
        group = "trained" if metrics["agent"] < self.experiment.n_agents else "new"
        curve = zip(self.experiment.eval_steps, metrics["loss"], metrics["accuracy"], strict=True)
        return [(metrics["agent"], group, metrics["samples"], *point) for point in curve]

    def result(self, diverged: FloatingPointError | None = None) -> Result:
        """Return the federation's run so far, as gl.run would."""
        done, rounds = len(self.rounds), self.experiment.rounds
        status, message = "stopped", f"stopped after {done} of {rounds} rounds"
        if done == rounds:
            status, message = "completed", f"all {rounds} rounds"
        if self.answered < done:
            status, message = "stopped", f"{message}, of which {done - self.answered} had no answer that could be used"
        if diverged is not None:
            rates = f"meta_lr (now {self.experiment.meta_lr:g}) or fine_tune_lr (now {self.experiment.fine_tune_lr:g})"
            when = f"in round {done}" if done else "before training"
            status, message = "diverged", f"diverged {when}: {diverged}; lower {rates}"
        params, history = unpack(self.arrays, self.like), self.history.astype(_OF_HISTORY)
        return Result(self.experiment, status, message, "Flower", self.answered, params, history, self.scores)

    def save(self, diverged: FloatingPointError | None = None) -> Result:
        """Save what there is, with a table of who took part beside it."""
        result = self.result(diverged)
        result.save(self.path)
        self.took_part.to_csv(f"{self.path}.rounds.csv", index=False)
        return result


def pack(params: Params) -> ArrayRecord:
    """Return parameters as what is sent: one vector, as every array on its own costs Flower several requests."""
    flat = torch.cat([tensor.detach().cpu().flatten() for tensor in params.values()])
    return ArrayRecord({"w": Array(flat.numpy())})


def vector(arrays: Any) -> torch.Tensor:
    """Return the vector in what should be an ArrayRecord: whoever sent it may have sent something else."""
    return torch.from_numpy(arrays["w"].numpy().copy())


def unpack(arrays: Any, like: Params) -> Params:
    """Return the parameters that were sent, with the names, shapes and device of others."""
    return named(vector(arrays), like)


def named(flat: torch.Tensor, like: Params) -> Params:
    """Return the parameters in one vector, with the names, shapes and device of others."""
    parts = flat.split([tensor.numel() for tensor in like.values()])
    return {name: part.reshape(like[name].shape).to(like[name]) for name, part in zip(like, parts, strict=True)}


def read_answer(reply: Message, experiment: Experiment, length: int = 0) -> tuple[dict[str, Any], torch.Tensor]:
    """Return the metrics in an answer, which may come from anybody, and its update [length] if one was asked for.

    Raises
    ------
    ValueError : an error, or what is no answer to the question.
    FloatingPointError : numbers that are not finite.
    """
    if reply.has_error():
        reason = reply.error.reason or "an error without a reason"
        raise FloatingPointError(f"{reason:.300}") if NonFiniteLoss.__name__ in reason else ValueError(f"{reason:.300}")
    dtype = PRECISIONS[experiment.precision]
    names, steps = (("loss",), ()) if length else (("loss", "accuracy"), (len(experiment.eval_steps),))
    try:
        metrics = {name: reply.content["metrics"][name] for name in ("agent", "samples", *names)}
        numbers = {name: np.asarray(metrics[name], np.float64) for name in names}
        update = vector(reply.content["arrays"]) if length else torch.empty(0, dtype=dtype)
    except Exception as error:  # whatever the bytes of strangers lead to
        raise ValueError(f"its answer cannot be read ({checks.shown(error)})") from error
    checks.integer("agent", metrics["agent"], 0, experiment.n_agents + experiment.n_new_agents - 1)
    checks.integer("samples", metrics["samples"], 1)
    for name, values in numbers.items():
        if values.shape != steps:
            raise ValueError(f"{name}: must be {list(steps)} numbers, got {list(values.shape)}")
    if update.shape != (length,) or update.dtype != dtype:
        raise ValueError(f"it sent {update.dtype} {list(update.shape)}, not {length} {experiment.precision} numbers")
    if not all(np.isfinite(values).all() for values in numbers.values()):
        raise FloatingPointError("its loss or accuracy is not finite")
    if not update.isfinite().all():
        raise FloatingPointError("its parameters are not finite")
    if (abs(numbers.get("accuracy", np.zeros(1)) - 0.5) > 0.5).any():
        raise ValueError("accuracy: must be numbers from 0 to 1")
    return metrics, update


def signs_of_life(grid: Grid) -> dict[int, float]:
    """Return, for every connected node, until when its last heartbeat keeps it connected."""
    return {node.node_id: node.online_until for node in grid.get_nodes()}


def senders(replies: Iterable[Message]) -> set[int]:
    """Return who has answered."""
    return {reply.metadata.src_node_id for reply in replies}


def _list(agents: list[int]) -> str:
    return " ".join(map(str, agents)) or "-"
