// The ν-step meta-objective of agents in the plane, as gmfl_lite/objective.py, meta_gradients.py and trainer.py have it.
//
//     w⁽⁰⁾ = w,   w⁽ʲ⁺¹⁾ = w⁽ʲ⁾ − α ∇f(w⁽ʲ⁾),   F(w) = mean of all agents' f(w⁽ᵛ⁾)
//
// Points and gradients are [w₁, w₂], Hessians [h₁₁, h₁₂, h₂₂]; all in double precision.
"use strict";

const metaObjective = (() => {
  const minus = (w, step, v) => [w[0] - step * v[0], w[1] - step * v[1]];
  const times = ([h11, h12, h22], v) => [h11 * v[0] + h12 * v[1], h12 * v[0] + h22 * v[1]];
  const mean = (points) => [0, 1].map((i) => points.reduce((sum, point) => sum + point[i], 0) / points.length);

  // f(w) = ½ (w − c)ᵀ A (w − c)
  const quadratic = ({ A, c }) => {
    const hessian = [A[0][0], A[0][1], A[1][1]];
    const gradient = (w) => times(hessian, minus(w, 1, c));
    const loss = (w) => {
      const apart = minus(w, 1, c);
      const slope = times(hessian, apart);
      return 0.5 * (apart[0] * slope[0] + apart[1] * slope[1]);
    };
    return { loss, gradient, hessian: () => hessian };
  };

  // The mean squared error of the neuron w₁ tanh(w₂ x) on the samples (x, y).
  const neuron = ({ x, y }) => {
    const averaged = (w, terms) => {
      const sums = [0, 0, 0];
      for (let k = 0; k < x.length; k++) {
        const t = Math.tanh(w[1] * x[k]);
        const bend = x[k] * (1 - t * t); // ∂t/∂w₂, and ∂bend/∂w₂ = −2 t x bend
        terms(w[0] * t - y[k], t, bend, x[k]).forEach((term, i) => (sums[i] += term / x.length));
      }
      return sums;
    };
    const loss = (w) => averaged(w, (off) => [off * off])[0];
    // What every fine-tuning step takes, at every point of the grid: without arrays for each sample.
    const gradient = (w) => {
      let [g1, g2] = [0, 0];
      for (let k = 0; k < x.length; k++) {
        const t = Math.tanh(w[1] * x[k]);
        const off = (2 * (w[0] * t - y[k])) / x.length;
        g1 += off * t;
        g2 += off * w[0] * x[k] * (1 - t * t);
      }
      return [g1, g2];
    };
    const hessian = (w) =>
      averaged(w, (off, t, bend, x) => [
        2 * t * t,
        2 * (w[0] * bend * t + off * bend),
        2 * ((w[0] * bend) ** 2 - 2 * off * w[0] * t * x * bend),
      ]);
    return { loss, gradient, hessian };
  };

  const losses = gmfl.data.agents.map((agent) => ({ quadratic, neuron })[agent.kind](agent));

  // w⁽⁰⁾, …, w⁽ᵛ⁾ of one agent.
  const path = (agent, w, nu, { fine_tune_lr }) => {
    const visited = [w];
    for (let j = 0; j < nu; j++) visited.push((w = minus(w, fine_tune_lr, losses[agent].gradient(w))));
    return visited;
  };

  const metaLoss = (w, nu, settings) =>
    losses.reduce((sum, { loss }, agent) => sum + loss(path(agent, w, nu, settings)[nu]), 0) / losses.length;

  // How many of the ν Hessian factors a method keeps.
  const factorsKept = (nu, { method, backprop_steps }) =>
    ({ exact: nu, first_order: 0, truncated: Math.min(backprop_steps, nu) })[method];

  // v⁽ᵛ⁻ᵐ⁾ of v⁽ᵛ⁾ = ∇f(w⁽ᵛ⁾), v⁽ʲ⁾ = (I − α ∇²f(w⁽ʲ⁾)) v⁽ʲ⁺¹⁾, with m factors kept.
  const agentGradient = (agent, w, nu, settings) => {
    const { gradient, hessian } = losses[agent];
    const visited = path(agent, w, nu, settings);
    let v = gradient(visited[nu]);
    for (let j = nu - 1; j >= nu - factorsKept(nu, settings); j--) {
      v = minus(v, settings.fine_tune_lr, times(hessian(visited[j]), v));
    }
    return v;
  };

  const metaGradient = (w, nu, settings) => mean(losses.map((_, agent) => agentGradient(agent, w, nu, settings)));

  // τ local steps of every agent from the server's w, then the average: one round of the FedAvg variant.
  const round = (w, nu, settings) => {
    const ends = losses.map((_, agent) => {
      let own = w;
      for (let t = 0; t < settings.local_steps; t++) {
        own = minus(own, settings.meta_lr, agentGradient(agent, own, nu, settings));
      }
      return own;
    });
    return mean(ends);
  };

  return { path, metaLoss, metaGradient, round };
})();
