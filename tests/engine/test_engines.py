"""What an engine is told and keeps: agents, hooks, state in checkpoints, whose engine it was, who failed."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

import gmfl_lite as gl
from gmfl_lite import engine as engines
from gmfl_lite import privacy
from gmfl_lite.engine import recording, vectorized

BASE = gl.Experiment(
    n_agents=12, agents_per_round=12, rounds=4, local_steps=3, nu=0, model="softmax", batch_size=None, meta_lr=0.3,
    eval_every=2,
)  # fmt: skip
BUILDERS = [gl.Loop, gl.Vectorized]
CONTRIBUTING = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def example(name: str, over: str = "gl.Vectorized") -> object:
    """Return what CONTRIBUTING's block of Python with this name in it defines, over another engine if asked for."""
    (block,) = [code for code in re.findall(r"```python\n(.*?)```", CONTRIBUTING, re.DOTALL) if f" {name}(" in code]
    names: dict[str, object] = {}
    exec(compile(block.replace("gl.Vectorized", over), "CONTRIBUTING.md", "exec"), names)
    return names[name]


def gradient(w: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the gradient of softmax regression with weight and bias in one matrix, by autograd on plain tensors."""
    w = w.detach().requires_grad_()
    cross_entropy(x.flatten(1) @ w[:, :-1].T + w[:, -1], y).backward()
    return w.grad


def start_of(federation) -> torch.Tensor:
    _, layer = gl.build_model("softmax", federation)
    return torch.cat([layer.weight, layer.bias[:, None]], 1).detach().double()


def as_matrix(result: gl.Result) -> torch.Tensor:
    weight, bias = result.params.values()
    return torch.cat([weight, bias[:, None]], 1).double()


def data_of(federation, agent: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = federation.train(agent)
    return x.double(), y


def test_an_engine_without_update_is_refused_where_it_is_made(federation):
    class Empty(gl.Engine):
        pass

    with pytest.raises(TypeError, match=r"Empty.*update"):
        gl.run(BASE, federation=federation, engine=lambda *_: Empty(BASE), progress=False)
    with pytest.raises(ValueError, match=r"what builds a gmfl_lite\.Engine, not a NoneType"):
        gl.run(BASE, federation=federation, engine=lambda *_: None, progress=False)


@pytest.mark.parametrize("builder", BUILDERS)
def test_an_engine_is_told_its_agents(federation, builder):
    told = []

    class Listening(builder):
        def update(self, params, batches, agents, stop, own=None):
            told.append(agents.tolist())
            return super().update(params, batches, agents, stop, own)

    gl.run(BASE.replace(agents_per_round=5, rounds=2), federation=federation, engine=Listening, progress=False)
    picked = [gl.server.pick_agents(12, 5, 0, round).tolist() for round in (0, 1)]
    assert [agent for some in told for agent in some] == [*picked[0], *picked[1]]


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("builder", BUILDERS)
def test_a_local_step_of_ones_own_is_taken_by_every_engine(federation, builder, recorded, monkeypatch):
    """FedProx, against an independent loop in float64; a hook keeps the recording."""
    monkeypatch.setattr(vectorized, "RECORDED_FROM", 1 if recorded else 10**9)
    pull = 2.0

    def fed_prox(w, gradient, start, own):
        return {name: w[name] - 0.3 * (gradient[name] + pull * (w[name] - start[name])) for name in w}

    result = gl.run(BASE, federation=federation, engine=partial(builder, local_step=fed_prox), progress=False)
    w = start_of(federation)
    for _ in range(BASE.rounds):
        ends = []
        for agent in range(12):
            w_i = w
            for _ in range(BASE.local_steps):
                w_i = w_i - 0.3 * (gradient(w_i, *data_of(federation, agent)) + pull * (w_i - w))
            ends.append(w_i)
        w = torch.stack(ends).mean(0)
    torch.testing.assert_close(as_matrix(result), w, rtol=0, atol=1e-5)
    assert "fed_prox" in result.engine
    if builder is gl.Vectorized:
        assert ("; recorded" in result.engine) == recorded


@pytest.mark.parametrize("builder", BUILDERS)
def test_fed_yogi_of_contributing(federation, builder):
    fed_yogi = example("fed_yogi")
    result = gl.run(BASE, federation=federation, engine=partial(builder, server_step=fed_yogi), progress=False)
    w = start_of(federation)
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for _ in range(BASE.rounds):
        ends = []
        for agent in range(12):
            w_i = w
            for _ in range(BASE.local_steps):
                w_i = w_i - 0.3 * gradient(w_i, *data_of(federation, agent))
            ends.append(w_i)
        delta = torch.stack(ends).mean(0) - w
        m, v = 0.9 * m + 0.1 * delta, v - 0.01 * delta**2 * torch.sign(v - delta**2)
        w = w + 0.1 * m / (v.sqrt() + 1e-3)
    torch.testing.assert_close(as_matrix(result), w, rtol=0, atol=1e-4)


@pytest.mark.parametrize("over", ["gl.Vectorized", "gl.Loop"])
def test_scaffold_of_contributing(federation, over):
    """Karimireddy et al. (2020), algorithm 1 with option II, written from the paper: c and c_i kept apart."""
    scaffold = example("Scaffold", over)
    experiment = BASE.replace(agents_per_round=5)
    result = gl.run(experiment, federation=federation, engine=scaffold, progress=False)
    x, c = start_of(federation), torch.zeros_like(start_of(federation))
    own = [torch.zeros_like(c) for _ in range(12)]
    for round in range(experiment.rounds):
        moved, changed = [], []
        for agent in gl.server.pick_agents(12, 5, 0, round).tolist():
            y = x
            for _ in range(experiment.local_steps):
                y = y - 0.3 * (gradient(y, *data_of(federation, agent)) - own[agent] + c)
            new = own[agent] - c + (x - y) / (experiment.local_steps * 0.3)
            moved.append(y - x)
            changed.append(new - own[agent])
            own[agent] = new
        x, c = x + torch.stack(moved).mean(0), c + torch.stack(changed).sum(0) / 12
    torch.testing.assert_close(as_matrix(result), x, rtol=0, atol=1e-4)
    plain = gl.run(experiment, federation=federation, progress=False)
    assert (as_matrix(plain) - x).abs().max() > 0.01, "SCAFFOLD must differ from FedAvg here"


@pytest.mark.parametrize("name", ["fed_yogi", "Scaffold"])
def test_the_examples_are_as_short_as_contributing_says(name):
    (block,) = [code for code in re.findall(r"```python\n(.*?)```", CONTRIBUTING, re.DOTALL) if f" {name}(" in code]
    definition = re.search(rf"^(?:def|class) {name}\(.*?(?=^\S)", block, re.DOTALL | re.MULTILINE)[0]
    lines = [line for line in definition.splitlines() if line.strip()]
    assert len(lines) < {"fed_yogi": 10, "Scaffold": 20}[name]


@pytest.mark.parametrize("which", ["fed_yogi", "Scaffold"])
def test_a_resumed_run_goes_on_with_what_the_engine_kept(federation, which, tmp_path):
    made = example(which)
    builder = made if which == "Scaffold" else partial(gl.build_engine, server_step=made)
    whole = gl.run(BASE, federation=federation, engine=builder, progress=False)
    path = tmp_path / "half"

    class Enough(Exception):
        pass

    def interrupt(round, rows):
        if round == 2:
            raise Enough

    with pytest.raises(Enough):
        gl.run(BASE, federation=federation, engine=builder, checkpoint=path, on_round=interrupt, progress=False)
    resumed = gl.run(BASE, federation=federation, engine=builder, checkpoint=path, progress=False)
    assert resumed.status == "completed"
    for name, tensor in whole.params.items():
        assert torch.equal(tensor, resumed.params[name]), name
    assert gl.load_result(path).params.keys() == whole.params.keys(), "what engines keep is no parameter"


def test_a_checkpoint_knows_which_engine_made_it(federation, tmp_path):
    protected = privacy.protected(clip_norm=1.0, noise=0.1)
    path = tmp_path / "protected"
    short = BASE.replace(rounds=2)
    gl.run(short, federation=federation, engine=protected, checkpoint=path, progress=False)
    for other in (gl.build_engine, privacy.protected(clip_norm=2.0, noise=0.1), example("Scaffold")):
        with pytest.raises(ValueError, match=r"was made by updates clipped at 1 with noise 0\.1, and here is "):
            gl.run(short, federation=federation, engine=other, checkpoint=path, progress=False)
    again = gl.run(short, federation=federation, engine=protected, checkpoint=path, progress=False)
    assert again.status == "completed"
    plain = tmp_path / "plain"
    gl.run(short, federation=federation, checkpoint=plain, progress=False)
    with pytest.raises(ValueError, match="was made by the experiment's own engine, and here is updates clipped at 1 "):
        gl.run(short, federation=federation, engine=protected, checkpoint=plain, progress=False)


def pulled(pull):
    def local_step(w, gradient, start, own):
        return {name: w[name] - 0.3 * (gradient[name] + pull * (w[name] - start[name])) for name in w}

    return local_step


class Stride:
    """A server's step that is an object."""

    def __init__(self, length):
        self.length = length

    def __call__(self, w, average, memory):
        return {name: w[name] + self.length * (average[name] - w[name]) for name in w}, memory


class Rounded(gl.Vectorized):
    def __init__(self, *run, decimals):
        super().__init__(*run)
        self.decimals = decimals

    def update(self, params, batches, agents, stop, own=None):
        updates, losses = super().update(params, batches, agents, stop, own)
        return {name: tensor.round(decimals=self.decimals) for name, tensor in updates.items()}, losses


@pytest.mark.parametrize(
    "builder",
    [
        lambda value: partial(gl.build_engine, local_step=pulled(value)),
        lambda value: partial(gl.build_engine, server_step=Stride(value)),
        lambda value: partial(gl.build_engine, server_step=partial(Stride(1), value)),
        lambda value: partial(Rounded, decimals=value),
    ],
    ids=["closure", "object", "partial", "engine"],
)
def test_a_checkpoint_knows_what_hooks_and_engines_were_made_with(federation, builder):
    predict, w = gl.models.as_functions(gl.build_model("softmax", federation), torch.device("cpu"))
    made = (BASE, federation, gl.models.cross_entropy(predict), w)
    one, again, two = (builder(value)(*made).recipe for value in (1, 1, 2))
    assert one == again != two
    assert "0x" not in one


def test_a_hook_without_attributes_has_a_name_all_the_same(federation):
    class Slotted:
        __slots__ = ()

        def __call__(self, w, average, memory):
            return average, memory

    predict, w = gl.models.as_functions(gl.build_model("softmax", federation), torch.device("cpu"))
    engine = gl.build_engine(BASE, federation, gl.models.cross_entropy(predict), w, server_step=Slotted())
    assert "Slotted" in engine.recipe
    assert "0x" not in engine.recipe


def test_engines_around_others_show_what_those_keep(federation):
    predict, w = gl.models.as_functions(gl.build_model("softmax", federation), torch.device("cpu"))
    builder = privacy.protected(clip_norm=1.0, noise=0.0, server_step=example("fed_yogi"))
    engine = builder(BASE, federation, gl.models.cross_entropy(predict), w)
    assert engine.memory == {}
    engine.server_step(w, {name: tensor + 1 for name, tensor in w.items()})
    assert len(engine.memory) == 4
    assert "fed_yogi" in engine.recipe
    assert "clipped at 1" in engine.recipe


def test_a_state_that_no_engine_keeps_is_refused(federation):
    predict, w = gl.models.as_functions(gl.build_model("softmax", federation), torch.device("cpu"))
    engine = gl.build_engine(BASE, federation, gl.models.cross_entropy(predict), w)
    with pytest.raises(ValueError, match="'elsewhere/m' is not what an engine keeps"):
        engine.load_state({"elsewhere/m": torch.zeros(1)})


@pytest.mark.parametrize("builder", BUILDERS)
def test_an_engine_goes_through_the_batches_once(federation, builder):
    predict, w = gl.models.as_functions(gl.build_model("softmax", federation), torch.device("cpu"))
    engine = builder(BASE, federation, gl.models.cross_entropy(predict), w)
    agents = torch.tensor([4, 0, 9])
    batches = federation.batches(agents, nu=BASE.nu, local_steps=3, batch_size=8, seed=0, round=0)
    once, losses = engine.update(w, (pair for pair in batches), agents, None)
    again, same = engine.update(w, list(batches), agents, None)
    assert losses.shape == (3, 3)
    assert torch.equal(losses, same)
    assert all(torch.equal(once[name], again[name]) for name in w)
    with pytest.raises((ValueError, engines.AgentError), match="batches: must hold at least one"):
        engine.update(w, iter([]), agents, None)


class Fragile(torch.nn.Module):
    """Fails for the agent whose images are marked."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x):
        if x.max() > 1.5:
            raise RuntimeError("too bright")
        return self.layer(x)


def test_the_loop_names_the_agent_that_fails(digits):
    parts = gl.partition(digits.y, gl.IID(), 6, seed=0)
    federation = gl.Federation.from_partition(digits, parts)
    federation.x = federation.x.clone()
    federation.x[federation._train.of(4)] *= 3
    experiment = gl.Experiment(
        n_agents=6, n_new_agents=0, agents_per_round=6, rounds=1, execution="loop", model="softmax", eval_every=5
    )
    model = Fragile(gl.build_model("softmax", federation))
    with pytest.raises(engines.AgentError, match=r"^agent 4: RuntimeError: too bright$"):  # while it is scored
        gl.run(experiment, federation=federation, model=model, progress=False)
    predict, w = gl.models.as_functions(model, torch.device("cpu"))
    rounds = gl.train(experiment, federation, gl.models.cross_entropy(predict), w, limit=100.0)
    with pytest.raises(engines.AgentError, match=r"^agent 4: RuntimeError: too bright$"):
        next(rounds)


def test_what_cannot_be_recorded_runs_all_the_same_and_says_so(federation, monkeypatch):
    monkeypatch.setattr(vectorized, "RECORDED_FROM", 1)
    recorded = gl.run(BASE, federation=federation, progress=False)

    def fails(*_, **__):
        raise NotImplementedError("no symbolic formula for this\nand a long story")

    monkeypatch.setattr(vectorized, "capture", fails)
    recording.forget()  # it would be shared
    plain = gl.run(BASE, federation=federation, progress=False)
    assert "; not recorded, as that failed (NotImplementedError: no symbolic formula for this)" in plain.engine
    assert "; recorded, as" in recorded.engine
    for name, tensor in recorded.params.items():
        torch.testing.assert_close(tensor, plain.params[name], rtol=0, atol=1e-6)
