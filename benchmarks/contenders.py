"""What races: each function prepares one contender and returns the call that is timed.

A meta step is w_i ← w_i − β ∇F_i(w_i) for every agent, in float32, with ν fine-tuning steps on batches of 20 images.
"""

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from memory import peak_memory
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

import gmfl_lite as gl
from gmfl_lite.engine import try_gradients
from gmfl_lite.models import as_functions, cross_entropy
from gmfl_lite.server import pick_agents
from gmfl_lite.trainer import batches_of as batches_from

ALPHA = BETA = 0.05
BATCH = 20
Call = Callable[[], object]


def federation_of(agents: int, size: int = 28, samples: int = 40) -> gl.Federation:
    """Agents with random images; what is in them does not matter to the time."""
    draws = torch.Generator().manual_seed(0)
    images = torch.rand(agents * samples, 1, size, size, generator=draws)
    labels = torch.randint(10, (agents * samples,), generator=draws)
    dataset = gl.Dataset("random", images, labels, tuple("0123456789"))
    return gl.Federation.from_partition(dataset, list(torch.arange(agents * samples).reshape(agents, samples).numpy()))


def batches_of(federation: gl.Federation, nu: int, local_steps: int = 1) -> list:
    agents = torch.arange(federation.n_agents)
    return list(federation.batches(agents, nu=nu, local_steps=local_steps, batch_size=BATCH, seed=0, round=0))


class Transformer(nn.Module):
    """One layer of attention over the rows of an image."""

    def __init__(self, size: int, width: int = 16) -> None:
        super().__init__()
        self.row, self.logits = nn.Linear(size, width), nn.Linear(width, 10)
        self.layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits(self.layer(self.row(x.squeeze(1))).mean(1))


class Recurrent(nn.Module):
    """A GRU that reads an image row by row."""

    def __init__(self, size: int, width: int = 16) -> None:
        super().__init__()
        self.reader, self.logits = nn.GRU(size, width, batch_first=True), nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits(self.reader(x.squeeze(1))[0][:, -1])


OWN = {"transformer": Transformer, "GRU": Recurrent}


def module_of(model: str, federation: gl.Federation) -> nn.Module:
    """Build one of the library's models, or one of OWN."""
    if model not in OWN:
        return gl.build_model(model, federation)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return OWN[model](federation.x.shape[-1])


def one_agent(agent: int, tree: object) -> object:
    return tree_map(lambda tensor: tensor[agent], tree)


def ours(
    agents: int,
    nu: int,
    method: str,
    model: str = "mlp",
    size: int = 28,
    execution: str = "auto",
    rounds: int = 10**6,
    compiled: bool = False,
) -> Call:
    """Return the local step of the engine that a run of so many rounds would have: long runs record it."""
    federation = federation_of(agents, size)
    predict, w = as_functions(module_of(model, federation), torch.device("cpu"))
    experiment = gl.Experiment(
        nu=nu, gradient=method, fine_tune_lr=ALPHA, meta_lr=BETA, batch_size=BATCH, local_steps=1, rounds=rounds,
        n_agents=agents, agents_per_round=agents, execution=execution,
    )  # fmt: skip
    options = {"compiled": True} if compiled else {}
    if model in OWN:
        try_gradients(experiment, federation, cross_entropy(predict), w)  # as `run` does
    engine = gl.build_engine(experiment, federation, cross_entropy(predict), w, **options)
    batches = batches_of(federation, nu)
    if execution == "loop":
        return lambda: engine.update(w, batches, torch.arange(agents), None)
    parts = list(torch.arange(agents).split(-(-agents // -(-agents // engine.agents_at_once))))
    chunks = [tree_map(lambda tensor, part=part: tensor[part], batches) for part in parts]
    return lambda: [engine.update(w, chunk, part, None) for part, chunk in zip(parts, chunks, strict=True)]


def products(agents: int, nu: int, method: str) -> Call:
    """As many multiplications as the meta step's products hold, in products of 1024 × 1024: the bound."""
    from torch.utils.flop_counter import FlopCounterMode

    federation = federation_of(agents)
    predict, w = as_functions(gl.build_model("mlp", federation), torch.device("cpu"))
    stacked = {name: tensor.expand(agents, *tensor.shape) for name, tensor in w.items()}
    function = torch.func.vmap(partial(gl.meta_gradient, cross_entropy(predict), fine_tune_lr=ALPHA, method=method))
    counter = FlopCounterMode(display=False)
    with counter:
        function(stacked, *batches_of(federation, nu)[0])
    width = 1024
    left, right, out = torch.rand(width, width), torch.rand(width, width), torch.empty(width, width)
    whole, rest = divmod(counter.get_total_flops(), 2 * width**3)
    rows = round(rest / (2 * width**2))

    def multiply() -> None:
        for _ in range(whole):
            torch.mm(left, right, out=out)
        torch.mm(left[:rows], right, out=out[:rows])

    return multiply


class _Shapes(TorchDispatchMode):
    """Writes down the shapes of what is multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[list[torch.Size]] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if operation is torch.ops.aten.bmm.default:
            self.found.append([tensor.shape for tensor in args])
        return operation(*args, **(kwargs or {}))


def products_as_they_are(agents: int, nu: int, method: str) -> Call:
    """The same multiplications in the step's own products, of twenty rows, and nothing else of the step."""
    federation = federation_of(agents)
    predict, w = as_functions(gl.build_model("mlp", federation), torch.device("cpu"))
    stacked = {name: tensor.expand(agents, *tensor.shape) for name, tensor in w.items()}
    function = torch.func.vmap(partial(gl.meta_gradient, cross_entropy(predict), fine_tune_lr=ALPHA, method=method))
    with _Shapes() as shapes:
        function(stacked, *batches_of(federation, nu)[0])
    factors = [tuple(map(torch.rand, pair)) for pair in shapes.found]
    out = [torch.bmm(*pair) for pair in factors]
    return lambda: [torch.bmm(*pair, out=result) for pair, result in zip(factors, out, strict=True)]


def plain_loop(agents: int, nu: int, method: str, model: str = "mlp", size: int = 28) -> Call:
    """What a PyTorch user writes: a loop over agents, autograd with create_graph, functional_call."""
    federation = federation_of(agents, size)
    module = module_of(model, federation)
    start = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    ((support, query),) = batches_of(federation, nu)
    data = [one_agent(agent, (support, query)) for agent in range(agents)]
    exact = method == "exact"

    def loss(params: dict, batch: tuple) -> torch.Tensor:
        return nn.functional.cross_entropy(functional_call(module, params, (batch[0],)), batch[1])

    @sdpa_kernel(SDPBackend.MATH)  # the fast ones have no second derivative
    def step() -> list:
        results = []
        for support, query in data:
            w = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
            params = w
            for batch in support:
                gradients = torch.autograd.grad(loss(params, batch), list(params.values()), create_graph=exact)
                params = {
                    name: tensor - ALPHA * gradient
                    for (name, tensor), gradient in zip(params.items(), gradients, strict=True)
                }
                if not exact:
                    params = {name: tensor.detach().requires_grad_() for name, tensor in params.items()}
            outer = torch.autograd.grad(loss(params, query), list((w if exact else params).values()))
            results.append([tensor.detach() - BETA * g for tensor, g in zip(w.values(), outer, strict=True)])
        return results

    return step


def torchopt_loop(agents: int, nu: int) -> Call:
    import torchopt

    federation = federation_of(agents)
    module = gl.build_model("mlp", federation)
    ((support, query),) = batches_of(federation, nu)
    data = [one_agent(agent, (support, query)) for agent in range(agents)]
    loss = nn.functional.cross_entropy
    inner = torchopt.MetaSGD(module, lr=ALPHA)
    network, optimizer = torchopt.extract_state_dict(module), torchopt.extract_state_dict(inner)

    def step() -> list:
        results = []
        for support, query in data:
            w = list(module.parameters())
            for batch in support:
                inner.step(loss(module(batch[0]), batch[1]))
            outer = torch.autograd.grad(loss(module(query[0]), query[1]), w)
            results.append([tensor.detach() - BETA * g for tensor, g in zip(w, outer, strict=True)])
            torchopt.recover_state_dict(module, network)
            torchopt.recover_state_dict(inner, optimizer)
        return results

    return step


def higher_loop(agents: int, nu: int) -> Call:
    import higher

    warnings.simplefilter("ignore")
    federation = federation_of(agents)
    module = gl.build_model("mlp", federation)
    ((support, query),) = batches_of(federation, nu)
    data = [one_agent(agent, (support, query)) for agent in range(agents)]
    loss = nn.functional.cross_entropy
    sgd = torch.optim.SGD(module.parameters(), lr=ALPHA)

    def step() -> list:
        results = []
        for support, query in data:
            with higher.innerloop_ctx(module, sgd, copy_initial_weights=False) as (tuned, inner):
                for batch in support:
                    inner.step(loss(tuned(batch[0]), batch[1]))
                w = list(tuned.parameters(time=0))
                outer = torch.autograd.grad(loss(tuned(query[0]), query[1]), w)
            results.append([tensor.detach() - BETA * g for tensor, g in zip(w, outer, strict=True)])
        return results

    return step


def jax_vmap(agents: int, nu: int, method: str) -> Call:
    """jit of vmap: the whole meta step of all agents as one compiled program."""
    import jax
    import jax.numpy as jnp

    federation = federation_of(agents)
    w = {name: p.detach().numpy() for name, p in gl.build_model("mlp", federation).named_parameters()}
    layers = [name.removesuffix(".weight") for name in w if name.endswith(".weight")]
    support, query = tree_map(lambda tensor: jnp.asarray(tensor.numpy()), batches_of(federation, nu)[0])
    stacked = {name: jnp.broadcast_to(array, (agents, *array.shape)) for name, array in w.items()}

    def loss(params: dict, batch: tuple) -> jax.Array:
        x, y, weight = batch
        h = x.reshape(len(x), -1)
        for layer in layers:
            h = h @ params[f"{layer}.weight"].T + params[f"{layer}.bias"]
            h = jax.nn.elu(h) if layer != layers[-1] else jax.nn.log_softmax(h)
        return -(h[jnp.arange(len(y)), y] * weight).sum()

    def fine_tune(params: dict, support: list) -> dict:
        for batch in support:
            gradient = jax.grad(loss)(params, batch)
            params = jax.tree.map(lambda tensor, g: tensor - ALPHA * g, params, gradient)
        return params

    def step(params: dict, support: list, query: tuple) -> dict:
        if method == "exact":
            gradient = jax.grad(lambda params: loss(fine_tune(params, support), query))(params)
        else:
            gradient = jax.grad(loss)(fine_tune(params, support), query)
        return jax.tree.map(lambda tensor, g: tensor - BETA * g, params, gradient)

    compiled = jax.jit(jax.vmap(step))
    return lambda: jax.block_until_ready(compiled(stacked, support, query))


SAMPLES, LOCAL_STEPS = 100, 5  # FedLab counts epochs: five batches of twenty are one


def our_fedavg(agents: int, size: int) -> Call:
    federation = federation_of(agents, size, samples=SAMPLES * 4 // 3 + 1)  # of which three quarters are trained on
    predict, w = as_functions(gl.build_model("mlp", federation), torch.device("cpu"))
    experiment = gl.Experiment(
        nu=0, meta_lr=BETA, batch_size=BATCH, local_steps=LOCAL_STEPS, rounds=10**6, n_agents=agents,
        agents_per_round=agents,
    )  # fmt: skip
    rounds = gl.train(experiment, federation, cross_entropy(predict), w)
    return lambda: next(rounds)


def fedlab_fedavg(agents: int, size: int) -> Call:
    """FedLab's serial trainer and aggregator, on data that is in memory already."""
    import logging

    from fedlab.contrib.algorithm.basic_client import SGDSerialClientTrainer
    from fedlab.utils import SerializationTool
    from fedlab.utils.aggregator import Aggregators
    from torch.utils.data import DataLoader, TensorDataset

    class Data:
        def __init__(self, federation: gl.Federation) -> None:
            self.sets = [TensorDataset(*federation.train(agent)) for agent in range(agents)]

        def get_dataloader(self, agent: int, batch_size: int) -> DataLoader:
            return DataLoader(self.sets[agent], batch_size=batch_size, shuffle=True, drop_last=True)

    logging.disable(logging.INFO)
    federation = federation_of(agents, size, samples=SAMPLES * 4 // 3 + 1)
    module = gl.build_model("mlp", federation)
    clients = SGDSerialClientTrainer(copy.deepcopy(module), agents)
    clients.setup_dataset(Data(federation))
    clients.setup_optim(epochs=1, batch_size=BATCH, lr=BETA)
    state = {"w": SerializationTool.serialize_model(module)}

    def round() -> None:
        clients.local_process([state["w"]], range(agents))
        state["w"] = Aggregators.fedavg_aggregate([package[0] for package in clients.uplink_package])

    return round


def our_round(**settings: object) -> Call:
    """Return a whole round of an experiment: picks, batches, local steps, averaging."""
    experiment = gl.Experiment(**{"rounds": 10**6, **settings})
    federation = gl.build_federation(experiment)
    predict, w = as_functions(gl.build_model(experiment.model, federation), torch.device("cpu"))
    rounds = gl.train(experiment, federation, cross_entropy(predict), w)
    return lambda: next(rounds)


def our_local_steps(**settings: object) -> Call:
    """Return the local steps of that round alone."""
    experiment = gl.Experiment(**{"rounds": 10**6, **settings})
    federation = gl.build_federation(experiment)
    predict, w = as_functions(gl.build_model(experiment.model, federation), torch.device("cpu"))
    engine = gl.build_engine(experiment, federation, cross_entropy(predict), w)
    picked = pick_agents(federation.n_agents, experiment.agents_per_round, 0, 0)
    batches = list(batches_from(picked, experiment, federation, 0))
    return lambda: engine.update(w, batches, picked, None)


def our_many_agents(agents: int, nu: int = 1, batch_size: int = 1) -> Call:
    """Return a round that picks so many agents that they come in chunks; each has few images, so that data is small."""
    federation = federation_of(agents, samples=4)
    predict, w = as_functions(gl.build_model("mlp", federation), torch.device("cpu"))
    experiment = gl.Experiment(
        nu=nu, n_agents=agents, agents_per_round=agents, rounds=10**6, local_steps=1, batch_size=batch_size
    )
    rounds = gl.train(experiment, federation, cross_entropy(predict), w)
    return lambda: next(rounds)


def our_width(width: int) -> Call:
    """Return a round of a model with one hidden layer of this width."""
    federation = federation_of(10)
    with torch.random.fork_rng():
        model = nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ELU(), nn.Linear(width, 10))
    predict, w = as_functions(model, torch.device("cpu"))
    experiment = gl.Experiment(n_agents=10, rounds=10**6, local_steps=1, batch_size=BATCH)
    rounds = gl.train(experiment, federation, cross_entropy(predict), w)
    return lambda: next(rounds)


def our_growth(agents: int, nu: int) -> float:
    """Return by how many MB the process grows in the first two rounds."""
    call = our_many_agents(agents, nu, batch_size=2)
    return peak_memory(lambda: (call(), call()))
