"""Build your own variant: gradients counted and written, a contest, a pull and a stride."""

from typing import Any

import numpy as np
import torch

import gmfl_lite as gl

from ..basics.checks import nearest
from ..basics.setting_records import settings_that_change
from .exercise import exercise
from .marking import Wrong, call, compare, keys, number, numbers


def _mark_cost_of_a_step(answer: Any) -> None:
    truth = {"exact": (6, 5), "truncated, two factors kept": (6, 2), "first-order": (6, 0), "Hessian-free": (16, 0)}
    keys(answer, truth)
    for name, pair in answer.items():
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise Wrong(f"{name}: a pair is asked for, (gradients, Hessian-vector products).")
        gradients, products = number(pair[0], f"{name}, gradients"), number(pair[1], f"{name}, products")
        what = f"{name}: the number of gradients"
        forgotten = "is one short: after the steps there is one more gradient, that of the loss at w⁽ᵛ⁾."
        mistakes = {
            f"{what} {forgotten}": truth[name][0] - 1,
            f"{what} misses one of the two sides of the central differences.": 11,
            f"{what} leaves out those that stand in for the products: two each.": 6,
            f"{what} counts the differences only, not the walk and its end.": 10,
        }
        compare(gradients, truth[name][0], mistakes, what=what)
        what = f"{name}: the number of products"
        mistakes = {
            f"{what} is one too many: there is one for each fine-tuning step, none for the loss at the end.": 6,
            f"{what} should be zero for a gradient that is {name}: nothing is multiplied.": 5,
        }
        compare(products, truth[name][1], mistakes, what=what)


@exercise(
    mark=_mark_cost_of_a_step,
    hint="Walk through one local step: ν fine-tuning steps, then the loss after them. A Hessian-free product is the "
    "difference of two gradients, one on each side.",
    why="First-order is only three times cheaper than exact here, not hundreds of times: no Hessian is ever formed. "
    "`gl.theory.meta_gradient_cost` adds these up, with 2.5 gradients for a product.",
)
def cost_of_a_step():
    nu, m = 5, 2
    gradients = nu + 1  # one for each fine-tuning step, and one for the loss after them
    return {
        "exact": (gradients, nu),
        "truncated, two factors kept": (gradients, m),
        "first-order": (gradients, 0),
        "Hessian-free": (gradients + 2 * nu, 0),  # two gradients in place of each product
    }


def _neuron(w: torch.Tensor, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    x, y = batch
    return ((w[0] * torch.tanh(w[1] * x) - y) ** 2).mean()


def _mark_truncated_gradient(answer: Any) -> None:
    alpha, draws = 0.3, np.random.default_rng(0)
    dtype = torch.get_default_dtype()
    w, x, bends = np.array([0.8, 0.9]), draws.uniform(-3, 3, size=(4, 12)), (1.6, 1.2, 1.8, 1.4)
    exact = [(torch.tensor(one), torch.tensor(bend * np.tanh(one))) for one, bend in zip(x, bends, strict=True)]
    given = [tuple(tensor.to(dtype) for tensor in batch) for batch in exact]
    for nu, keep in ((3, 0), (3, 1), (3, 3), (3, 2), (1, 1)):
        start = torch.tensor(w, dtype=dtype)
        shown = f"with ν = {nu} and keep = {keep}"
        value = call(answer, _neuron, start, given[:nu], given[3], alpha, keep, given=shown)
        if not np.allclose(start.numpy(), w):
            raise Wrong("Your function changes the w that it was given. Make new tensors: `w = w - …`, not `w -= …`.")
        if isinstance(value, tuple):
            raise Wrong("Return the gradient alone, a tensor like w.")
        truth, mistakes = _truncations(torch.tensor(w), exact[:nu], exact[3], alpha, keep)
        compare(value, truth, mistakes, what=f"your result {shown}")


def _truncations(
    w: torch.Tensor, support: list[Any], query: Any, alpha: float, keep: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the truth, by differences of the loss after the last `keep` steps, and what mistakes would give."""
    gradient = torch.func.grad(_neuron)
    hessian = torch.func.jacrev(gradient)
    points = [w]
    for batch in support:
        points.append(points[-1] - alpha * gradient(points[-1], batch))

    kept = slice(len(support) - keep, None)

    def after(point: torch.Tensor) -> float:
        for batch in support[kept]:
            point = point - alpha * gradient(point, batch)
        return _neuron(point, query).item()

    base, nudges = points[kept][0], 1e-5 * torch.eye(2, dtype=w.dtype)
    truth = np.array([(after(base + nudge) - after(base - nudge)) / 2e-5 for nudge in nudges])

    eye, last = torch.eye(2, dtype=w.dtype), gradient(points[-1], query)
    hessians = [hessian(point, batch) for point, batch in zip(points[:-1], support, strict=True)]
    factors = [eye - alpha * h for h in hessians]

    def chain(matrices: list[torch.Tensor], v: torch.Tensor = last) -> np.ndarray:
        for matrix in reversed(matrices):
            v = matrix @ v
        return v.numpy()

    later = [eye - alpha * hessian(point, batch) for point, batch in zip(points[1:], support, strict=True)]
    mistakes = {
        "You kept the factors of the *first* steps. Keep the last ones, next to the gradient.": chain(factors[:keep]),
        "All factors are kept, whatever `keep` says.": chain(factors),
        "No factor is kept: this is the first-order gradient.": chain([]),
        "One factor too many is kept.": chain(factors[max(len(support) - keep - 1, 0) :]),
        "One factor too few is kept.": chain(factors[len(support) - keep + 1 :]),
        "The factors act in the wrong order: the one of the last step comes first.": chain(factors[kept][::-1]),
        "The sign in the factors is wrong: I *minus* α · Hessian.": chain([2 * eye - one for one in factors[kept]]),
        "The α is missing in the factors: I − α times the Hessian.": chain([eye - h for h in hessians[kept]]),
        "The Hessians are taken one point too late: the factor of step j needs the one where that step *starts*.": (
            chain(later[kept])
        ),
        "The last gradient is taken on a support batch. The loss after the steps is that on `query`.": chain(
            factors[kept], gradient(points[-1], support[-1])
        ),
        "The last gradient is taken at w. It belongs to the end of the walk.": chain(factors[kept], gradient(w, query)),
        "The walk is missing: this is the gradient at w.": gradient(w, query).numpy(),
    }  # fmt: skip
    return truth, mistakes


@exercise(
    mark=_mark_truncated_gradient,
    hint="Two loops. Forwards: take the steps and keep every point you pass. Backwards: start with the gradient at "
    "the last point, and let `keep` factors act on it, the one of the last step first. Step j uses the batch "
    "`support[j]` both times.",
    why="This is the m-step meta-gradient taken at w⁽ᵛ⁻ᵐ⁾: truncation forgets how the first steps depend on w. What "
    "you have written is what `method='truncated'` does, there without ever forming a Hessian.",
)
def truncated_gradient(loss_fn, w, support, query, fine_tune_lr, keep):
    gradient = torch.func.grad(loss_fn)
    points = [w]
    for batch in support:
        points.append(points[-1] - fine_tune_lr * gradient(points[-1], batch))
    v = gradient(points[-1], query)
    for j in reversed(range(len(support) - keep, len(support))):  # the last `keep` steps, backwards
        hessian = torch.func.jacrev(gradient)(points[j], support[j])
        v = v - fine_tune_lr * hessian @ v
    return v


def _mark_largest_nu(answer: Any) -> None:
    for seed, beta in ((0, 1.0), (1, 1.0), (4, 1.6)):
        agents, alpha = gl.theory.Quadratics.random(6, 3, lowest=0.3, highest=2.3, seed=seed), 1.0
        nus = range(9)
        converging = [nu for nu in nus if _converges(agents, nu, alpha, beta)]
        truth = max(converging)
        average = [beta * agents.meta_smoothness(nu, alpha) for nu in nus]
        each = [beta * agents.largest_meta_smoothness(nu, alpha) for nu in nus]
        mistakes = {truth + 1: "This is the first ν that diverges. The question asks for the last that converges."}
        for careful in ([h <= 1 for h in average], [h <= 0.5 for h in average], [h < 2 for h in each]):
            mistakes[max(np.flatnonzero(careful).tolist(), default=0)] = (
                "Too careful. Convergence goes on up to βL = 2, beyond the 1 or ½ that theorems ask for to be safe; "
                "and the L that counts is that of the *average* meta-loss, as the server averages, not the steepest "
                "agent's."
            )
        if converging[0] > 0:
            mistakes[0] = mistakes[-1] = (
                f"For the agents of seed {seed} and β = {beta} already ν = 0 diverges, but larger ν converge: the "
                "curvature falls before it rises. Do not stop at the first failure."
            )
        given = f"for the agents of seed {seed}, α = {alpha:g}, β = {beta:g}"
        shown = f"your result {given}"
        value = number(call(answer, agents, alpha, beta, given=given), shown)
        compare(value, truth, {message: nu for nu, message in mistakes.items() if value == nu}, what=shown)


def _converges(agents: gl.theory.Quadratics, nu: int, alpha: float, beta: float) -> bool:
    """Run the rounds and look whether they come nearer to the minimiser."""
    goal = agents.minimiser(nu, alpha)
    visited = agents.train(goal + 1, nu, alpha, beta, 1, rounds=60)[:, 0]
    return bool(np.linalg.norm(visited[-1] - goal) < np.linalg.norm(visited[0] - goal))


@exercise(
    mark=_mark_largest_nu,
    hint="With one local step and all agents, training is gradient descent on the average meta-loss, and that is "
    "quadratic here. When does gradient descent on ½ h w² converge? `agents.meta_smoothness(nu, fine_tune_lr)` is "
    "the curvature h.",
    why="Where α times the largest curvature exceeds 2, fine-tuning itself walks away in the steepest direction, by "
    "a fixed factor in every step, and the meta-loss becomes steeper with every ν. A smaller fine_tune_lr helps; a "
    "smaller meta_lr only buys a few more steps.",
)
def largest_nu(agents, fine_tune_lr, meta_lr):
    # One local step, all agents: gradient descent on the average meta-loss, which converges while β times its largest
    # curvature is below 2. The curvature may fall before it rises, so look at every ν.
    return max(nu for nu in range(30) if meta_lr * agents.meta_smoothness(nu, fine_tune_lr) < 2)


HOLDINGS = settings_that_change("holdings", of=gl.Experiment)
CONTEST = gl.Experiment(
    model="softmax",
    n_agents=12,
    n_new_agents=8,
    agents_per_round=12,
    local_steps=1,
    rounds=30,
    batch_size=None,
    fine_tune_lr=0.3,
    meta_lr=0.3,
    eval_every=30,
    eval_steps=(0, 1, 3, 5, 10),
    device="cpu",
    precision="float64",  # the same winner on every processor
)
"""What `one_beats_ten` fixes: everything but ν, the seed, and who holds what."""
LEAD = 5.0


def _mark_one_beats_ten(answer: Any) -> None:
    if not isinstance(answer, dict):
        raise Wrong("Give a dict of settings, such as {'partition': 'shards', 'classes_per_agent': 2}.")
    others = [name for name in answer if name not in HOLDINGS]
    if others:
        raise Wrong(
            f"{others[0]!r} would decide the contest by other means{nearest(others[0], HOLDINGS)}. Only what the "
            f"agents hold may change: {', '.join(HOLDINGS)}."
        )
    leads = []
    for seed in range(3):
        try:
            experiments = [CONTEST.replace(nu=nu, seed=seed, **answer) for nu in (1, 10)]
            runs = [gl.run(experiment, progress=False) for experiment in experiments]
        except ValueError as error:
            raise Wrong(f"Nothing can be dealt like this: {error}") from error
        one, ten = (number(found.table().loc["new", 10], "an accuracy") for found in runs)
        leads.append(100 * (one - ten))
    if min(leads) <= 0 or np.mean(leads) < LEAD:
        raise Wrong(
            f"After ten steps ν = 1 leads by {', '.join(f'{lead:+.1f}' for lead in leads)} points with three seeds, "
            f"{np.mean(leads):+.1f} on average. Needed: {LEAD:g} on average, and a lead with each seed."
        )


@exercise(
    mark=_mark_one_beats_ten,
    hint="Where one model is right for nobody (permuted names), looking far ahead pays; where it is right for all, "
    "both do well. Look in between: mixes of classes that differ, but not too much. Then ask what else can differ "
    "between agents besides their mixes: `gl.Experiment?` lists the settings.",
    why="ν = 10 was scored after the very ten steps that it was trained for, and lost. That says little against its "
    "goal: with the same small meta_lr on a flatter landscape, thirty rounds do not get it there. The table below "
    "tries a larger one.",
)
def one_beats_ten():
    return {"partition": "dirichlet", "dirichlet_alpha": 1.0, "size_spread": 1.0}  # mixed classes, unequal sizes


def _quadratic(params: dict[str, torch.Tensor], batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    a, c = batch
    return 0.5 * (a * (params["w"] - c) ** 2).sum()


def _mark_proximal_update(answer: Any) -> None:
    dtype = torch.get_default_dtype()
    a, c, w0 = np.array([1.0, 0.3]), np.array([1.0, -2.0]), np.array([0.5, 1.0])
    batch = (torch.tensor(a, dtype=dtype), torch.tensor(c, dtype=dtype))
    for nu, tau, alpha, beta, pull in ((1, 3, 0.4, 0.5, 0.0), (2, 4, 0.4, 0.5, 0.8), (0, 1, 0.4, 0.5, 0.8)):
        params = {"w": torch.tensor(w0, dtype=dtype)}
        given = f"with ν = {nu}, τ = {tau}, pull = {pull:g}"
        found = call(answer, _quadratic, params, [([batch] * nu, batch)] * tau, alpha, beta, pull, given=given)
        if isinstance(found, tuple):
            raise Wrong("Return the parameters alone, a dict like `params`, not a pair.")
        keys(found, params)
        if not np.allclose(params["w"].numpy(), w0):
            raise Wrong("Your function changes the server's parameters in place. Make new tensors.")

        def steps(
            pull: float, centre: Any = w0, nu: int = nu, tau: int = tau, alpha: float = alpha, beta: float = beta
        ) -> np.ndarray:
            w = w0
            for _ in range(tau):
                w = w - beta * (a * (1 - alpha * a) ** (2 * nu) * (w - c) + pull * (w - centre))
            return w

        mistakes = {
            "The pull does nothing. Is it towards the current w? That difference is zero. Keep the w that the "
            "server sent.": steps(0),
            "The pull pushes away from the server: check its sign.": steps(-pull),
            "The pull is twice too strong: the gradient of ½ · pull · ‖w − w_server‖² has no 2.": steps(2 * pull),
            "The pull is half as strong as it should be: its ½ cancels in the gradient.": steps(pull / 2),
            "The pull has to be multiplied by meta_lr, too: it is part of the gradient.": steps(pull / beta),
            "The pull is towards zero instead of towards the server's parameters.": steps(pull, centre=0),
            "Only one local step is taken. There is one for each (support, query).": steps(pull, tau=1),
            "This does not look ahead: it is the gradient at w, not the meta-gradient.": steps(pull, nu=0),
            "meta_lr and fine_tune_lr are mixed up.": steps(pull, alpha=beta, beta=alpha),
        }
        compare(found["w"], steps(pull), mistakes, what=f"your result {given}")


@exercise(
    mark=_mark_proximal_update,
    hint="Begin with what `gl.local_update` does: for each (support, query), a meta-gradient and a step. Then add "
    "the gradient of ½ · pull · ‖w − w_server‖². Which w stays the same during all steps?",
    why="With pull = 0 this is the library's own local update; with a large one the agents stay close to the "
    "server, drift less and learn less. The idea is FedProx (Li et al., 2020), here with any ν.",
)
def proximal_update(loss_fn, params, batches, fine_tune_lr, meta_lr, pull):
    w = params
    for support, query in batches:
        gradient, _ = gl.meta_gradient(loss_fn, w, support, query, fine_tune_lr=fine_tune_lr)
        w = {name: w[name] - meta_lr * (gradient[name] + pull * (w[name] - params[name])) for name in w}
    return w


def _mark_server_step(answer: Any) -> None:
    dtype = torch.get_default_dtype()
    w = {"weight": np.array([[1.0, -2.0]]), "bias": np.array([0.5])}
    sent = {"weight": np.array([[[2.0, 0.0]], [[4.0, 1.0]], [[0.0, 1.0]]]), "bias": np.array([[1.0], [2.0], [3.0]])}
    for lr in (1.0, 0.25, 0.0):
        params, updates = ({k: torch.tensor(v, dtype=dtype) for k, v in what.items()} for what in (w, sent))
        found = call(answer, params, updates, lr, given=f"with server_lr = {lr:g}")
        keys(found, w)
        for name, value in found.items():
            here, mean = w[name], sent[name].mean(axis=0)
            mistakes = {
                "server_lr is ignored: this is the plain average.": mean,
                "The two are the other way round: server_lr = 1 must give the average, server_lr = 0 the server's "
                "own.": mean + lr * (here - mean),
                "The sum is used where the average is needed.": here + lr * (sent[name].sum(axis=0) - here),
                "This goes away from the agents: check the sign.": here - lr * (mean - here),
                "This starts from zero instead of from the server's parameters.": lr * mean,
                "The difference to the server's parameters is missing: move by a part of (average − params).": (
                    here + lr * mean
                ),
            }
            truth = here + lr * (mean - here)
            compare(numbers(value, name), truth, mistakes, what=f"{name!r} with server_lr = {lr:g}")


@exercise(
    mark=_mark_server_step,
    hint="`gl.aggregate(updates)` is where the agents are on average. Go from where the server is, `params`, a part "
    "server_lr of the way there.",
    why="With server_lr = 1 this is FedAvg's average; below 1 it is Reptile's outer step (Nichol et al., 2018). "
    "FedAvg with several local steps and Reptile are the same walk, with another stride.",
)
def server_step(params, updates, server_lr):
    average = gl.aggregate(updates)
    return {name: params[name] + server_lr * (average[name] - params[name]) for name in params}
