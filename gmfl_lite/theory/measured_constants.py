"""The theory's constants measured on a real model, and what step sizes and how many rounds they ask for."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.func import grad, vmap

from ..basics import checks
from ..engine import agents_at_once, modestly, parts
from ..federation import Federation
from ..meta_gradients import meta_gradient
from ..objective import LossFn, Params, fine_tune, meta_loss, norm
from . import bounds, constants
from .heterogeneity import gradients_at, hessian_differences, root_mean_square_spread, sets_of
from .of_a_model import objective_of
from .spectrum import curvatures, products, spectral_norms, spectrum_ends


@dataclass(frozen=True)
class Constants:
    """What `estimate_constants` measured at a point w, over the agents that train.

    Attributes
    ----------
    nu, fine_tune_lr, n_agents : ν, α and n of the measurement.
    smoothness : L, the largest |eigenvalue| of any ∇²f_i(w_i⁽ʲ⁾), j ≤ ν.
    negative_curvature : μ, such that no eigenvalue is below −μ; below 0 if all losses curve upwards everywhere.
    gradient_bound : B, the largest ‖∇f_i(w_i⁽ʲ⁾)‖.
    gradient_heterogeneity, hessian_heterogeneity : γ_G and γ_H, the largest along gradient descent on the average loss.
    meta_heterogeneity, meta_smoothness : γ_F(w), and the largest ‖∇²F_i(w)‖.
    meta_loss, meta_gradient_norm : F(w) and ‖∇F(w)‖.
    """

    nu: int
    fine_tune_lr: float
    n_agents: int
    smoothness: float
    negative_curvature: float
    gradient_bound: float
    gradient_heterogeneity: float
    hessian_heterogeneity: float
    meta_heterogeneity: float
    meta_smoothness: float
    meta_loss: float
    meta_gradient_norm: float


@modestly
def estimate_constants(
    model_or_loss: nn.Module | LossFn,
    federation: Federation,
    params: Params | None = None,
    *,
    nu: int,
    fine_tune_lr: float,
    iterations: int = 30,
) -> Constants:
    """Measure the constants of the theory along the agents' fine-tuning trajectories from w.

    f_i is the mean loss on agent i's training samples. Eigenvalues come from Lanczos iterations with Hessian-vector
    products, which approach both ends of the spectrum from inside. A measured constant holds at the points visited; it
    is no bound elsewhere.

    Parameters
    ----------
    model_or_loss : a module, whose loss is the cross-entropy, or a function (params, batch) -> scalar tensor, with
        batches (x, y, weight) whose weights sum to one, 0 for padding.
    federation : the agents; those that train are measured.
    params : w, for example a Result's params; by default the module's own.
    nu, fine_tune_lr : ν and α.
    iterations : of Lanczos, each one Hessian-vector product per agent and point (and one of all agents' samples for
        γ_H). 30 are within one per cent, unless the spectrum has no gap at its ends.

    Raises
    ------
    ValueError : an unsuitable module, a loss without params, wrong numbers.

    Examples
    --------
    >>> import gmfl_lite as gl
    >>> federation = gl.build_federation(gl.Experiment(n_agents=5, n_new_agents=0, agents_per_round=5))
    >>> model = gl.build_model("softmax", federation)
    >>> found = estimate_constants(model, federation, nu=1, fine_tune_lr=0.1)
    >>> round(found.smoothness, 1), abs(found.negative_curvature) < 1e-4  # convex
    (1.7, True)
    """
    nu = checks.integer("nu", nu, 0)
    fine_tune_lr = checks.number("fine_tune_lr", fine_tune_lr, 0)
    iterations = checks.integer("iterations", iterations, 2)
    loss_fn, params = _loss_and_params(model_or_loss, federation, params)
    agents = federation.groups["trained"]

    def f_nu(w: Params, batch: object) -> torch.Tensor:
        return meta_loss(loss_fn, w, [batch] * nu, batch, fine_tune_lr=fine_tune_lr)

    lowest, highest, sizes, steepest, gradients, losses = [], [], [], [], [], []

    def at_once(width: int) -> int:
        return max(1, agents_at_once(loss_fn, params, federation.example(width), copies=2 * iterations + 3 * nu + 2))

    for some in parts(federation.alike(agents), at_once):
        batches = federation.train_sets(agents[some])
        start = points = {name: tensor.expand(len(some), *tensor.shape) for name, tensor in params.items()}
        for j in range(nu + 1):
            low, high = spectrum_ends(products(loss_fn, points, batches), points, iterations)
            lowest.append(low)
            highest.append(high)
            sizes.append(vmap(lambda w, b: norm(grad(loss_fn)(w, b)))(points, batches))
            if j < nu:
                points = vmap(lambda w, b: fine_tune(loss_fn, w, [b], fine_tune_lr))(points, batches)
        steepest.append(curvatures(f_nu, start, batches, iterations=iterations))
        gradient, loss = vmap(
            lambda w, b: meta_gradient(loss_fn, w, [b] * nu, b, fine_tune_lr=fine_tune_lr)
        )(start, batches)  # fmt: skip
        gradients.append(gradient)
        losses.append(loss)
    smallest, largest = torch.cat(lowest).min().item(), torch.cat(highest).max().item()
    of_agents = {name: torch.cat([part[name] for part in gradients]) for name in params}
    gamma_G, gamma_H = _heterogeneity_on_the_way(loss_fn, federation, params, nu, fine_tune_lr, iterations)
    return Constants(
        nu=nu,
        fine_tune_lr=fine_tune_lr,
        n_agents=len(agents),
        smoothness=max(abs(smallest), abs(largest)),
        negative_curvature=-smallest,
        gradient_bound=torch.cat(sizes).max().item(),
        gradient_heterogeneity=gamma_G,
        hessian_heterogeneity=gamma_H,
        meta_heterogeneity=root_mean_square_spread(of_agents),
        meta_smoothness=torch.cat(steepest).max().item(),
        meta_loss=torch.cat(losses).mean().item(),
        meta_gradient_norm=norm({name: tensor.mean(0) for name, tensor in of_agents.items()}).item(),
    )


@dataclass(frozen=True)
class Advice:
    """Step sizes and rounds that measured constants ask for; `str` says it in words. See `advice`."""

    fine_tune_lr: float
    largest_meta_lr: float
    meta_lr: float
    rounds: int
    text: str

    def __str__(self) -> str:
        return self.text


def advice(
    measured: Constants,
    *,
    local_steps: int,
    agents_per_round: int,
    target: float = 0.1,
    meta_bias: float = 0.0,
    meta_std: float = 0.0,
) -> Advice:
    """Say which α is safe for ν, which β is allowed for τ, and with which β how many rounds suffice.

    Parameters
    ----------
    measured : of `estimate_constants`.
    local_steps, agents_per_round : τ and rn.
    target : by what factor the root mean square of ‖∇F‖ over the rounds is to be below ‖∇F(w)‖, in (0, 1).
    meta_bias, meta_std : bias b of approximated meta-gradients, for which no number of rounds makes up (‖∇F‖² ≤ ε² +
        7.3 b² on average, ε the target), and standard deviation s on mini-batches. 0: exact gradients, full batch.

    Returns
    -------
    Advice : fine_tune_lr     the largest safe α: ν steps at most double a vector (`largest_safe_fine_tune_lr`);
             largest_meta_lr  1/(2τL_F), beyond which the theory says nothing;
             meta_lr, rounds  which reach the target (`prescription`, with F ≥ 0), as far as the constants hold on the
                              way; that is careful: the first round below the target often comes 25 times earlier;
             text             the same in words.

    Raises
    ------
    ValueError : a mean loss F(w) below 0: how many rounds suffice needs a loss with F ≥ 0. Or wrong numbers.

    Examples
    --------
    >>> measured = Constants(nu=3, fine_tune_lr=0.1, n_agents=10, smoothness=2.0, negative_curvature=0.5,
    ...     gradient_bound=1.0, gradient_heterogeneity=0.5, hessian_heterogeneity=0.5, meta_heterogeneity=0.5,
    ...     meta_smoothness=2.0, meta_loss=2.0, meta_gradient_norm=1.0)
    >>> found = advice(measured, local_steps=5, agents_per_round=10)
    >>> print(found.text.splitlines()[0])
    fine_tune_lr: up to 0.52 is safe for nu = 3; 0.1 is.
    >>> found.largest_meta_lr, found.rounds
    (0.05, 10580)
    """
    if not isinstance(measured, Constants):
        raise checks.refusal("measured", type(measured).__name__, "what estimate_constants returns")
    if measured.meta_loss < 0:
        raise ValueError(
            f"measured: its meta_loss F(w) = {measured.meta_loss:.3g} is below 0, and how many rounds suffice is known"
            " for losses that are nowhere negative only: add a constant to the loss"
        )
    target = checks.number("target", target, 0, 1, above=True)
    local_steps = checks.integer("local_steps", local_steps, 1)
    L_F, epsilon = measured.meta_smoothness, target * measured.meta_gradient_norm
    safe = float(constants.largest_safe_fine_tune_lr(measured.nu, measured.smoothness, measured.negative_curvature))
    plan = bounds.prescription(
        epsilon,
        local_steps=local_steps,
        initial_gap=measured.meta_loss,
        meta_smoothness=L_F,
        n_agents=measured.n_agents,
        agents_per_round=agents_per_round,
        meta_heterogeneity=measured.meta_heterogeneity,
        meta_bias=meta_bias,
        meta_std=meta_std,
    )
    gradients = "exact gradients" if meta_bias == 0 else f"gradients of bias {meta_bias:.2g}"
    batch = "the full batch" if meta_std == 0 else f"mini-batches of standard deviation {meta_std:.2g}"
    reached = np.hypot(epsilon, np.sqrt(7.3) * meta_bias)
    largest = 1 / (2 * local_steps * L_F)
    now = measured.fine_tune_lr
    text = (
        f"fine_tune_lr: up to {safe:.2g} is safe for nu = {measured.nu}; {now:g} is{'' if now <= safe else ' not'}.\n"
        f"meta_lr: up to {largest:.2g} for local_steps = {local_steps}.\n"
        f"rounds: {plan.rounds:.2g} at meta_lr = {plan.meta_lr:.2g} suffice for a gradient of\n"
        f"        norm {reached:.2g} on average (now {measured.meta_gradient_norm:.2g}), "
        f"with {gradients} and {batch};\n"
        "        the first such round often comes far earlier."
    )
    return Advice(safe, largest, plan.meta_lr, plan.rounds, text)


def _loss_and_params(
    model_or_loss: nn.Module | LossFn, federation: Federation, params: Params | None
) -> tuple[LossFn, Params]:
    if not isinstance(federation, Federation):
        raise checks.refusal("federation", type(federation).__name__, "a gmfl_lite.Federation")
    if isinstance(model_or_loss, nn.Module):
        return objective_of(model_or_loss, federation, params)
    if not callable(model_or_loss):
        raise checks.refusal("model_or_loss", model_or_loss, "a torch.nn.Module or a loss (params, batch) -> scalar")
    if params is None:
        raise checks.refusal("params", None, "given with a loss function, which has none of its own")
    return model_or_loss, {name: tensor.detach().to(federation.x.device) for name, tensor in params.items()}


def _heterogeneity_on_the_way(
    loss_fn: LossFn, federation: Federation, params: Params, nu: int, fine_tune_lr: float, iterations: int
) -> tuple[float, float]:
    """Return the largest γ_G and γ_H at w_f⁽⁰⁾, …, w_f⁽ᵛ⁾, gradient descent on the average loss."""
    sets = sets_of(federation, federation.groups["trained"])
    gamma_G, gamma_H = [], []
    for _ in range(nu + 1):
        gradients = gradients_at(loss_fn, params, sets)
        gamma_G.append(root_mean_square_spread(gradients))
        norms = spectral_norms(hessian_differences(loss_fn, params, sets), gradients, iterations)
        gamma_H.append(norms.square().mean().sqrt().item())
        params = {name: tensor - fine_tune_lr * gradients[name].mean(0) for name, tensor in params.items()}
    return max(gamma_G), max(gamma_H)
