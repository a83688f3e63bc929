"""The meta-gradient of the 80–60 MLP in float32: other libraries' exact gradients, and how close differences come."""

import warnings

import pytest
import torch

import gmfl_lite as gl
from gmfl_lite.data import DEBIAN_FASHION_MNIST
from gmfl_lite.models import as_functions, cross_entropy

pytestmark = pytest.mark.slow

LR = 0.1


@pytest.fixture(scope="module", params=["digits", "fashion-mnist"])
def problem(request):
    """Model, loss function, and the batches of one agent, at the start and after training."""
    if request.param == "fashion-mnist" and not DEBIAN_FASHION_MNIST.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    experiment = gl.Experiment(
        dataset=request.param, partition="iid", permuted_classes=10, n_agents=40, n_new_agents=0, local_steps=1,
        rounds=60, eval_every=60, eval_steps=(0,), fine_tune_lr=LR, meta_lr=LR,
    )  # fmt: skip
    federation = gl.build_federation(experiment)
    model = gl.build_model("mlp", federation)
    predict, start = as_functions(model, torch.device("cpu"))
    trained = gl.run(experiment, federation=federation, model=model, progress=False).params
    ((support, query),) = federation.batches(torch.tensor([7]), nu=5, local_steps=1, batch_size=20, seed=1, round=0)
    support, query = ([tuple(t[0] for t in batch) for batch in batches] for batches in (support, [query]))
    return model, cross_entropy(predict), {"start": start, "trained": trained}, support, query[0]


def flat(params):
    return torch.cat([tensor.detach().flatten() for tensor in params.values()])


def gradient(loss_fn, params, support, query, **options):
    found, loss = gl.meta_gradient(loss_fn, params, support, query, fine_tune_lr=LR, **options)
    return flat(found), loss


def load(model, params):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(params[name])


def module_loss(model, batch):
    x, y, weight = batch
    return (torch.nn.functional.cross_entropy(model(x), y, reduction="none") * weight).sum()


@pytest.mark.parametrize("point", ["start", "trained"])
@pytest.mark.parametrize("nu", [1, 3, 5])
def test_equals_torchopts_exact_gradient(problem, nu, point):
    torchopt = pytest.importorskip("torchopt")
    model, loss_fn, points, support, query = problem
    load(model, points[point])
    inner = torchopt.MetaSGD(model, lr=LR)
    start = torchopt.extract_state_dict(model)
    initial = list(model.parameters())
    for batch in support[:nu]:
        inner.step(module_loss(model, batch))
    outer = module_loss(model, query)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(outer, initial)])
    torchopt.recover_state_dict(model, start)
    found, loss = gradient(loss_fn, points[point], support[:nu], query)
    assert (found - expected).abs().max() < 1e-6
    assert loss.item() == pytest.approx(outer.item(), abs=1e-6)
    recomputed, _ = gradient(loss_fn, points[point], support[:nu], query, recompute=True)
    assert (recomputed - expected).abs().max() < 1e-6


@pytest.mark.parametrize("point", ["start", "trained"])
@pytest.mark.parametrize("nu", [1, 3, 5])
def test_equals_highers_exact_gradient(problem, nu, point):
    higher = pytest.importorskip("higher")
    model, loss_fn, points, support, query = problem
    load(model, points[point])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # higher is not maintained; what it warns of is not about the gradient
        with higher.innerloop_ctx(model, torch.optim.SGD(model.parameters(), lr=LR)) as (fast, inner):
            for batch in support[:nu]:
                inner.step(module_loss(fast, batch))
            gradients = torch.autograd.grad(module_loss(fast, query), list(fast.parameters(time=0)))
    expected = torch.cat([g.flatten() for g in gradients])
    assert (gradient(loss_fn, points[point], support[:nu], query)[0] - expected).abs().max() < 1e-6


@pytest.mark.parametrize("point", ["start", "trained"])
@pytest.mark.parametrize("nu", [1, 3, 5])
def test_hessian_free_in_float32_is_within_one_percent(problem, nu, point):
    _, loss_fn, points, support, query = problem
    exact, _ = gradient(loss_fn, points[point], support[:nu], query)
    free, _ = gradient(loss_fn, points[point], support[:nu], query, method="hessian_free")
    assert (free - exact).norm() < 0.01 * exact.norm()
    assert torch.nn.functional.cosine_similarity(free, exact, dim=0) > 0.999
    first_order, _ = gradient(loss_fn, points[point], support[:nu], query, method="first_order")
    assert (first_order - exact).norm() > 0.03 * exact.norm()  # the bar means something
