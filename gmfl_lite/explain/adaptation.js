// Fine-tuning as a film: a slider for the steps, a menu of agents, two curves, and what the model calls the samples.
// All numbers and labels come from the library (gmfl.data); nothing is computed here but counts of what is right.
"use strict";

{
  const { data, make } = gmfl;
  const { most, score, agents, groups, history } = data;
  const accurate = score === "accuracy";
  document.documentElement.style.setProperty("--method", data.colour);

  // ---- Words ----

  const value = (number) => (accurate ? `${Math.round(100 * number)} %` : number.toPrecision(3));
  const many = (number, thing) => `${number} ${thing}${number === 1 ? "" : "s"}`;
  const after = (steps) => (steps ? `after ${many(steps, "fine-tuning step")}` : "before fine-tuning");

  // ---- The page, built once ----

  let agent = agents[0];
  let steps = 0;

  const menu = make("select", { onchange: () => choose(Number(menu.value)) },
    ...agents.map(({ name, group }, place) => make("option", { value: place }, `${name} (${group})`)));
  const slider = make("input", { type: "range", min: 0, max: most, step: 1, value: 0, oninput: () => goTo(Number(slider.value)) });
  const shownSteps = make("b", { "aria-hidden": "true" }); // which the slider itself says
  const player = gmfl.player({
    step: () => goTo(steps + 1), begin: () => steps === most && goTo(0), every: 900, calmly: 2000,
  });
  const said = make("p", { class: "said", role: "status", "aria-live": "polite" });
  const samples = make("div", { class: "samples" });
  const curves = ["rounds", "steps"].map((over) => {
    const svg = make("svg", { role: "img", class: "curve" });
    const caption = make("figcaption", {});
    return { over, svg, caption, figure: make("figure", {}, caption, svg) };
  });
  const key = (kind, text) => make("span", { class: "key" },
    make("svg", { viewBox: "0 0 34 10", width: 34, height: 10, "aria-hidden": "true" }, make("line", { x1: 0, y1: 5, x2: 34, y2: 5, class: kind })), text);
  const keys = make("p", { class: "legend" }, key("mean", "mean of the agents"), key("best", "best"), key("worst", "worst"), key("own", "the agent chosen"));
  document.body.append(
    make("h1", {}, "What fine-tuning does to one agent's model"),
    make("div", { class: "controls" }, player.button,
      make("label", { class: "slide" }, "Fine-tuning steps ", slider, shownSteps), make("label", {}, "Agent ", menu)),
    said, samples, make("div", { class: "curves" }, ...curves.map(({ figure }) => figure)), keys);

  // ---- Samples: images, labels, or a function and its fit ----

  const right = (at) => agent.shown.called[at].filter((name, place) => name === agent.shown.is[place]).length;

  const tiles = () => agent.shown.is.map((is, place) => {
    const called = agent.shown.called[steps][place];
    const hit = called === is;
    const image = data.kind === "images"
      ? [make("img", { src: agent.shown.images[place], alt: "" })]
      : [make("span", { class: "which" }, `sample ${agent.shown.rows[place]}`)];
    const words = `${data.kind === "images" ? "Image" : "Sample"} ${agent.shown.rows[place]}: ${is}; the model calls it ${called}, ` +
      `${hit ? "right" : "wrong"}; before fine-tuning, ${agent.shown.called[0][place]}.`;
    return make("li", {}, make("div", { class: hit ? "tile right" : "tile wrong", role: "img", "aria-label": words, title: words },
      ...image, make("span", { class: "is" }, `label ${is}`),
        make("span", { class: "called" }, `${hit ? "✓" : "✗"} says ${called}`)));
  });

  const fit = () => {
    const { grid, fits, train, test } = agent.shown;
    const heights = [...train, ...test].map(([, y]) => y).concat(...fits);
    const svg = make("svg", { role: "img", class: "fit" });
    const at = axes(svg, [grid[0], grid[grid.length - 1]], [Math.min(...heights), Math.max(...heights)], "x", { widest: 640, height: 260 });
    const path = (values) => grid.map((x, place) => at(x, values[place]).join()).join(" ");
    svg.append(make("polyline", { points: path(fits[0]), class: "start" }), make("polyline", { points: path(fits[steps]), class: "mean" }));
    for (const [x, y] of train) svg.append(dot(at(x, y), "train"));
    for (const [x, y] of test) svg.append(dot(at(x, y), "test"));
    svg.setAttribute("aria-label", `The model's function ${after(steps)}, dashed before it; filled dots: samples that it fine-tunes on, ` +
      "rings: those that it is scored on.");
    return [svg, make("p", { class: "legend" }, key("mean", `the model ${after(steps)}`), key("start", "before fine-tuning"),
      make("span", { class: "key" }, "● fine-tunes on"), make("span", { class: "key" }, "○ is scored on"))];
  };

  const drawSamples = () => samples.replaceChildren(...(data.kind === "fits" ? fit()
    : [make("ul", { class: `tiles ${data.kind}`, "aria-label": `samples of ${agent.name}` }, ...tiles())]));

  // ---- Curves ----

  const dot = ([x, y], kind) => make("circle", { cx: x, cy: y, r: 3, class: kind });

  // Round numbers from low to high, about as many as asked for.
  const ticks = (low, high, number) => {
    const rough = (high - low || 1) / number;
    const power = 10 ** Math.floor(Math.log10(rough));
    const apart = [1, 2, 2.5, 5, 10].find((times) => times * power >= rough * 0.999) * power;
    const first = Math.ceil(low / apart - 1e-9);
    const found = Array.from({ length: Math.floor(high / apart + 1e-9) - first + 1 }, (_, place) => (first + place) * apart);
    return found.map((tick) => Number(tick.toPrecision(6)));
  };

  // Draw axes, and return where a point lies. A unit of the drawing is a pixel, so that its text is readable on a phone.
  let room = 0;
  const axes = (svg, [left, right], [low, high], xlabel, { widest, height, percent, whole }) => {
    room = document.body.clientWidth || room; // a frame has none before it is laid out, and while JupyterLab hides its cell
    const width = Math.max(200, Math.min(widest, room - 12));
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    const box = { left: 48, right: width - 14, top: 8, bottom: height - 36 };
    const at = (x, y) => [
      box.left + ((box.right - box.left) * (x - left)) / (right - left || 1),
      box.bottom - ((box.bottom - box.top) * (y - low)) / (high - low || 1),
    ].map((number) => Math.round(10 * number) / 10);
    for (const y of ticks(low, high, 4)) {
      const [x0, y0] = at(left, y);
      svg.append(make("line", { x1: x0, y1: y0, x2: box.right, y2: y0, class: "grid" }),
        make("text", { x: x0 - 5, y: y0 + 4, "text-anchor": "end" }, percent ? `${Math.round(100 * y)} %` : String(y)));
    }
    for (const x of ticks(left, right, 5).filter((tick) => !whole || Number.isInteger(tick)))
      svg.append(make("text", { x: at(x, low)[0], y: box.bottom + 15, "text-anchor": "middle" }, String(x)));
    svg.append(make("text", { x: (box.left + box.right) / 2, y: height - 3, "text-anchor": "middle" }, xlabel));
    return at;
  };
  const CURVE = { widest: 430, height: 230, percent: accurate, whole: true };
  const line = (svg, points, kind) => svg.append(make("polyline", { points: points.map((point) => point.join()).join(" "), class: kind }));

  const group = () => groups[agent.group];
  const heights = () => [0, accurate ? 1 : Math.max(...group().worst, ...group().best, ...agent.score,
    ...(history[agent.group] ?? []).flatMap(({ points }) => points.map(([, y]) => y)))];

  const drawSteps = ({ svg, caption }) => {
    const { name, best, mean, worst, agents: number } = group();
    const at = axes(svg, [0, most], heights(), "fine-tuning steps", CURVE);
    const [x, bottom] = at(steps, 0);
    svg.append(make("line", { x1: x, y1: at(0, heights()[1])[1], x2: x, y2: bottom, class: "now" }));
    for (const [kind, values] of Object.entries({ own: agent.score, best, worst, mean })) {
      line(svg, values.map((y, place) => at(place, y)), kind);
      svg.append(dot(at(steps, values[steps]), kind));
    }
    caption.textContent = `After round ${data.round}: ${score} of the ${number} ${name}`;
    svg.setAttribute("aria-label", `${score} of ${name} ${after(steps)}: best ${value(best[steps])}, mean ${value(mean[steps])}, worst ` +
      `${value(worst[steps])}, ${agent.name} ${value(agent.score[steps])}.`);
  };

  const drawRounds = ({ svg, caption, figure }) => {
    const lines = history[agent.group] ?? [];
    figure.hidden = !lines.length;
    if (!lines.length) return;
    // The run was looked at after some numbers of steps only: the last of them that is not beyond the slider.
    const current = lines.filter((one) => one.steps <= steps).pop() ?? lines[0];
    const at = axes(svg, [0, Math.max(1, data.round)], heights(), "communication rounds", CURVE);
    for (const one of lines) if (one !== current) line(svg, one.points.map(([x, y]) => at(x, y)), "other");
    const others = lines.filter((one) => one !== current).map((one) => one.steps);
    line(svg, current.points.map(([x, y]) => at(x, y)), "mean");
    for (const [x, y] of current.points.slice(-1)) svg.append(dot(at(x, y), "mean"));
    caption.textContent = `Over the rounds: mean ${score} ${after(current.steps)}${current.steps === steps ? "" : ", the last that were scored"}` +
      (others.length ? `; thin: after ${others.join(", ")}` : "");
    const [first, last] = [current.points[0], current.points[current.points.length - 1]];
    svg.setAttribute("aria-label", `Mean ${score} of ${group().name} ${after(current.steps)}: ${value(first[1])} at round ${first[0]}, ` +
      `${value(last[1])} at round ${last[0]}.`);
  };

  // ---- What the reader does ----

  const show = () => {
    slider.value = steps;
    slider.setAttribute("aria-valuetext", many(steps, "fine-tuning step"));
    shownSteps.textContent = String(steps);
    const counted = data.kind === "fits" ? "" : ` Of the ${many(agent.shown.is.length, "sample")} below, ${right(steps)} are right` +
      `${steps ? `; before fine-tuning, ${right(0)}` : ""}.`;
    said.textContent = `${agent.name} ${after(steps)}${steps ? ` of size α = ${data.fine_tune_lr} on its ${many(agent.tuned_on, "sample")}` : ""}: ` +
      `${score} ${value(agent.score[steps])} on the ${many(agent.scored, "sample")} that it is scored on.${counted}` +
      (agent.group === "new" ? " New: nobody has trained on its samples." : "") +
      (data.moves === "all" ? "" : ` Fine-tuning moves the ${data.moves} alone.`) +
      (data.renamed ? ` A label is this agent's own name for the class: every agent has shuffled the names of ${data.renamed} classes.` : "");
    drawSamples();
    drawRounds(curves[0]);
    drawSteps(curves[1]);
  };
  // Go to a number of steps, and say whether another one follows.
  const goTo = (to) => {
    steps = Math.min(Math.max(to, 0), most);
    if (steps === most) player.pause();
    show();
    return steps < most;
  };
  const choose = (place) => {
    agent = agents[place];
    menu.value = place;
    show();
  };
  Object.assign(gmfl.keys, {
    ArrowRight: () => goTo(steps + 1), ArrowLeft: () => goTo(steps - 1), Home: () => goTo(0), End: () => goTo(most),
  });

  gmfl.whenChanged(show);
  show();
  Object.assign(gmfl, { goTo, choose, at: () => steps, agent: () => agent, right, playing: player.playing });
}
