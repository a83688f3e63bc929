"""What the server of a federation does with Flower: pick, ask, average, log who took part."""

import math
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from ..aggregation import AGGREGATIONS, ALIKE, aggregate, judge, outliers
from ..basics import checks
from ..basics.storage import expanded, put
from ..evaluation import AGENT_COLUMNS, some_of, summarise, those_of
from ..experiment import Experiment
from ..objective import Params
from ..result import HISTORY_COLUMNS, Result
from ..server import Diverged, Memory, check_round, loss_limit, pick_agents, server_step
from .answers import named, pack, read_answer, unpack, vector
from .promise import promise

log = getLogger("flwr").info

_OF_AGENTS, _OF_HISTORY = (those_of(columns, ["accuracy"]) for columns in (AGENT_COLUMNS, HISTORY_COLUMNS))

PATIENCE = 5
"""How many times a round's seconds to wait before the first round where all are connected, but cannot score."""


class MetaFedAvg(Strategy):
    """Flower's name for what a server does: pick agents as gl.run does, average as gl.run does, log who took part.

    A round ends when all who were asked have answered, or after `seconds`, with those who have. Who has not answered is
    asked again only after a new sign of life (Flower's heartbeat, every half minute), so that one dead computer does
    not hold up every round. Newcomers are asked from the next round on. Where an agent is away, the next in the round's
    drawn order takes its place. The result so far is saved after every round.

    What comes from a node is judged before it counts (`gmfl_lite.aggregation.judge`): a refused answer and an outlier
    are left out by name, and the others go on. No update moves w further than clip_norm and its noise account for.
    """

    def __init__(
        self,
        experiment: Experiment,
        seconds: float,
        start: Params,
        classes: int,
        save: str | Path,
        *,
        clip_norm: float = 0.0,
        noise: float = 0.0,
    ) -> None:
        self.experiment, self.seconds, self.like = experiment, seconds, start
        self.arrays, self.classes, self.limit = pack(start), classes, loss_limit(math.log(classes), 0.0)
        self.guessing, self.before, size = math.log(classes), self.arrays, len(vector(self.arrays))
        # The length of noise on so many numbers is √size standard deviations, and in practice never four more.
        self.longest = clip_norm * (1 + noise * (math.sqrt(size) + 4)) if clip_norm else math.inf
        trained, new = torch.arange(experiment.n_agents + experiment.n_new_agents).tensor_split([experiment.n_agents])
        how = experiment.eval_agents, experiment.seed
        self.scored = {*some_of("trained", trained, *how).tolist(), *some_of("new", new, *how).tolist()}
        self.clip_norm, self.noise, self.path = clip_norm, noise, expanded(save)
        self.saved: Path | None = self.path
        self.usual_length = ALIKE * float(vector(self.arrays).double().norm())  # shorter ones are all alike
        self.declared: dict[int, int] = {}
        self.answered, self.few, self.refused = 0, 0, ""
        self.memory: Memory = {}
        self.agents: dict[int, int] = {}
        self.met: dict[int, Message] = {}
        self.renamed: set[int] = set()
        self.asked: list[int] = []
        self.silent: dict[int, float] = {}
        self.rounds: list[dict[str, Any]] = []
        self.scores = pd.DataFrame(columns=list(_OF_AGENTS)).astype(_OF_AGENTS)
        self.history = pd.DataFrame(columns=list(_OF_HISTORY)).astype(_OF_HISTORY)

    @property
    def took_part(self) -> pd.DataFrame:
        """One row per round: who was asked, whose updates were averaged, who is missing, who was left out and why."""
        return pd.DataFrame(self.rounds, columns=["round", "asked", "took_part", "missing", "left_out"])

    def summary(self) -> None:
        log("\t└──> %s", self.experiment)

    def wait_for(self, agents: int, grid: Grid) -> None:
        """Wait until enough agents can score; their scores of the initial w are the curve of round 0.

        Who is connected, but cannot score, is waited for no longer than five rounds.

        Raises
        ------
        TimeoutError : nobody can.
        """
        longest, since, known = PATIENCE * self.seconds, time.monotonic(), 0
        while len(here := self.present(grid)) < agents:
            log("%d of %d agents are here: %s", len(here), agents, _list(sorted(here)))
            if len(signs_of_life(grid)) < agents or len(here) > known:  # somebody is still to come, or has come
                since, known = time.monotonic(), max(known, len(here))
            if time.monotonic() - since > longest:
                why = (
                    f"{len(signs_of_life(grid))} nodes are connected, but only {len(here)} of {agents} agents can score"
                )
                why += f"; the last of the others says: {self.refused or 'nothing'}"
                if not here:
                    raise TimeoutError(why)
                log("%s; it begins without them", why)
                break
            time.sleep(2)
        self.aggregate_evaluate(0, [self.met[node] for agent, node in here.items() if agent in self.scored])
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
                    self.refused = f"{error!s:.500}"
                    continue
                number = reply.content["metrics"]["agent"]  # it is here, though w is of no use to it
            if number in self.agents.values():
                log("another computer says that it is agent %d: the later one is asked as long as it is here", number)
            self.agents[node], self.met[node] = number, reply
            self.declared[node] = checks.integer("samples", reply.content["metrics"]["samples"], 1)
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
        now = vector(self.arrays)
        answers, left_out, not_finite = self.usable(replies, len(now))
        in_order = [node for node in self.asked if node in answers]
        lengths = {node: float((answers[node][1].double() - now).norm()) for node in in_order}
        samples = {node: answers[node][0]["samples"] for node in in_order}
        by_size = self.experiment.weighting == "samples"
        reasons = judge(
            [*lengths.values()],
            [answers[node][0]["loss"] for node in in_order],
            [*samples.values()] if by_size else None,
            usual_length=self.usual_length,
            guessing=self.guessing,
        )
        self.leave_out(answers, left_out, dict(zip(in_order, reasons, strict=True)))
        lists = self.asked, answers, set(self.asked) - set(answers)
        everybody, here, missing = (sorted(self.agents[node] for node in nodes) for nodes in lists)
        row = {"round": server_round, "asked": _list(everybody), "took_part": _list(here), "missing": _list(missing)}
        why = [f"{self.agents[node]}: {reason}" for node, reason in left_out.items() if node in self.agents]
        self.rounds.append({**row, "left_out": "; ".join(why) or "-"})
        log("round %(round)d: asked %(asked)s; took part: %(took_part)s; missing: %(missing)s", row)
        if not answers:
            if 2 * len(not_finite) > len(self.asked):  # one agent alone cannot end it
                raise FloatingPointError(f"no agent's update can be used: {not_finite[-1]}")
            return None, None
        self.say_if_few(len(answers))
        nodes = [node for node in in_order if node in answers]
        loss = float(np.mean([answers[node][0]["loss"] for node in nodes]))
        self.usual_length = max(self.usual_length, sorted(lengths[node] for node in nodes)[(len(nodes) - 1) // 2])
        updates = {"w": torch.stack([self.clipped(answers[node][1], now, lengths[node]) for node in nodes])}
        sizes = torch.tensor([samples[node] for node in nodes]) if by_size else None
        average = aggregate(updates, sizes, aggregation=self.experiment.aggregation)
        w, mean = unpack(self.arrays, self.like), named(average["w"], self.like)
        server, server_lr = self.experiment.server, self.experiment.server_lr
        after, memory = server_step(w, mean, self.memory, server=server, server_lr=server_lr)
        check_round(loss, after, self.limit)
        self.before, self.arrays, self.memory, self.answered = self.arrays, pack(after), memory, self.answered + 1
        return self.arrays, MetricRecord({"loss": loss, "agents": len(nodes)})

    def clipped(self, update: torch.Tensor, now: torch.Tensor, length: float) -> torch.Tensor:
        """Return an agent's w_i, no further from w than `longest`: the teacher's clip_norm holds here, too."""
        return update if length <= self.longest else now + (update - now) * (self.longest / length)

    def say_if_few(self, answers: int) -> None:
        """Say once how many liars so few agents can outvote."""
        if answers <= 3 and answers != self.few:
            what = "nobody can be outvoted" if answers < 3 else "one can be outvoted by the others, two cannot"
            log("%d agents took part: of so few, %s", answers, what)
        self.few = answers

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if server_round % self.experiment.eval_every and server_round < self.experiment.rounds:
            return []
        nodes = [node for agent, node in self.present(grid).items() if agent in self.scored]
        return [self.message({"arrays": arrays}, node, MessageType.EVALUATE) for node in nodes]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        replies = list(replies)
        answers, left_out, not_finite = self.usable(replies)
        losses = [metrics["loss"] for metrics, _ in answers.values()]
        columns = zip(*losses, strict=True)
        far = np.any([outliers(column, self.guessing) for column in columns], axis=0) if len(losses) > 2 else ()
        worst = list(zip(answers, far, losses, strict=False))
        self.leave_out(answers, left_out, {node: f"its loss is {max(its):.3g}" for node, out, its in worst if out})
        if not answers:
            if 2 * len(not_finite) > len(replies):
                raise FloatingPointError(f"no agent's scores can be used: {not_finite[-1]}")
            self.save()
            return None
        rows = [row for metrics, _ in answers.values() for row in self.rows_of(metrics)]
        scores = pd.DataFrame(rows, columns=list(_OF_AGENTS)).astype(_OF_AGENTS)
        self.scores = scores.sort_values(["agent", "fine_tune_steps"], ignore_index=True)
        curve = summarise(self.scores).assign(round=server_round)
        self.history = pd.concat([self.history, curve], ignore_index=True)[list(_OF_HISTORY)]
        at_start = self.scores.loc[self.scores["fine_tune_steps"] == 0, "loss"]
        if server_round and at_start.mean() > self.limit:
            self.arrays, self.answered = self.before, self.answered - 1  # the last sound w
            raise Diverged(f"the agents' loss grew to {at_start.mean():.3g}")
        self.save()
        means = curve.pivot(index="group", columns="fine_tune_steps", values="accuracy").round(3)
        log("round %d: accuracy after so many fine-tuning steps\n%s", server_round, means.to_string())
        return MetricRecord({"accuracy": curve["accuracy"].tolist()})

    def usable(
        self, replies: Iterable[Message], length: int = 0
    ) -> tuple[dict[int, tuple[dict[str, Any], torch.Tensor]], dict[int, str], list[str]]:
        """Return what can be used of the answers, by node, why others cannot, and what is not finite."""
        found: dict[int, tuple[dict[str, Any], torch.Tensor]] = {}
        left_out: dict[int, str] = {}
        not_finite = []
        for reply in replies:
            node = reply.metadata.src_node_id
            try:
                metrics, update = read_answer(reply, self.experiment, length)
                if metrics["agent"] != self.agents.get(node):
                    self.renamed.add(node)
                    raise ValueError(f"it says now that it is agent {metrics['agent']}")
                if metrics["samples"] > self.declared[node]:
                    raise ValueError(f"samples = {metrics['samples']}: at its start it said {self.declared[node]}")
                found[node] = metrics, update
            except (ValueError, FloatingPointError) as error:
                not_finite += [str(error)] if isinstance(error, FloatingPointError) else []
                self.leave_out({}, left_out, {node: f"{error!s:.500}"})
        return found, left_out, not_finite

    def leave_out(self, answers: dict[int, Any], left_out: dict[int, str], reasons: dict[int, str]) -> None:
        """Move nodes, for the reasons given, from those that can be used to those that are left out, and say so."""
        for node, reason in reasons.items():
            if reason:
                answers.pop(node, None)
                left_out[node] = reason
                log("agent %s is left out: %s", self.agents.get(node, "?"), reason)

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

    def promise(self) -> str:
        """Return what clipping and noise have promised the agents in the rounds so far; "" where there is neither."""
        asked = Counter(agent for row in self.rounds for agent in row["asked"].split() if agent != "-")
        averaged = [len(row["took_part"].split()) for row in self.rounds if row["took_part"] != "-"]
        plain = self.experiment.weighting == "uniform" and AGGREGATIONS[self.experiment.aggregation].adds_up
        most = max(asked.values(), default=0)
        return promise(self.noise, most, averaged, uniform=plain) if self.clip_norm and most else ""

    @cached_property
    def elsewhere(self) -> Path:
        """Where the result so far is saved if the path that was asked for cannot be written."""
        return Path(tempfile.mkdtemp(prefix="gmfl_lite-")) / self.path.name

    def save(self, diverged: FloatingPointError | None = None) -> Result:
        """Save the result so far and a table of who took part; if that is impossible, save elsewhere and say so."""
        result, before, self.saved, why = self.result(diverged), self.saved, None, ""
        for place in ("path", "elsewhere"):
            try:
                result.save(path := getattr(self, place))
                put(f"{path}.rounds.csv", self.took_part.to_csv(index=False).encode())
            except (OSError, ValueError) as error:  # the federation goes on
                why = why or str(error)
            else:
                self.saved = path
                break
        if why and self.saved != before:
            log("the result so far cannot be saved as %s (%s): it is in %s", self.path, why, self.saved or "memory")
        return result


def signs_of_life(grid: Grid) -> dict[int, float]:
    """Return, for every connected node, until when its last heartbeat keeps it connected."""
    return {node.node_id: node.online_until for node in grid.get_nodes()}


def senders(replies: Iterable[Message]) -> set[int]:
    """Return who has answered."""
    return {reply.metadata.src_node_id for reply in replies}


def _list(agents: list[int]) -> str:
    return " ".join(map(str, agents)) or "-"
