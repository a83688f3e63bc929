// One round, step by step. All numbers come from the library (gmfl.data); what is computed here is the average of the
// agents that are kept: its length follows from the inner products of the agents' updates, exactly.
"use strict";

{
  const { data, make } = gmfl;
  const { setting, picked, products } = data;
  const { nu, local_steps: tau } = setting;

  // ---- Words ----

  const raised = (number) => `⁽${[...String(number)].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("")}⁾`;
  const w = (j) => `w${raised(j)}`;
  const v = (j) => `v${raised(j)}`;
  const rounded = (number) => (number === 0 ? "0" : Math.abs(number) >= 0.001 ? number.toPrecision(3) : number.toExponential(1));
  const many = (number, thing) => `${number} ${thing}${number === 1 ? "" : "s"}`;
  const kilobytes = (bytes) => (bytes < 1e6 ? `${(bytes / 1000).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(2)} MB`);
  const each = data.parameters * data.bytes;
  const last = picked[0].steps[0].back.length - 1; // how far back the gradient goes; −1 where it does not

  // ---- The average of the agents that are kept ----

  const dropped = new Set();
  const kept = () => picked.map((_, place) => place).filter((place) => !dropped.has(place));

  // The share of every picked agent: weights of those that are kept, scaled to a sum of one.
  const shares = (places) => {
    const total = places.reduce((sum, place) => sum + picked[place].weight, 0);
    return picked.map((agent, place) => (places.includes(place) ? agent.weight / total : 0));
  };
  // ‖Σ pᵢ (wᵢ − w)‖, for any numbers p.
  const lengthOf = (p) => {
    let square = 0;
    p.forEach((a, i) => p.forEach((b, k) => (square += a * b * products[i][k])));
    return Math.sqrt(Math.max(square, 0));
  };
  const everybody = shares(picked.map((_, place) => place));
  const average = () => {
    const p = shares(kept());
    return {
      kept: kept().map((place) => picked[place].number),
      displacement: lengthOf(p),
      change: kept().length ? lengthOf(p.map((share, place) => share - everybody[place])) : null,
      down: each * picked.length,
      up: each * kept().length,
    };
  };

  // ---- The stages: what a step forward shows, in order ----

  const PHASES = ["pick", "send", "fine-tune", "query", "meta-gradient", "local step", "send back", "average"];
  const stages = [];
  const stage = (phase, title, words, place = {}) => stages.push({ phase, title, words, t: tau - 1, ...place });
  const equally = setting.weighting === "samples" ? "by the samples that it trains on" : "equally";
  const factors = {
    exact: `${v(0)} is the exact meta-gradient ∇Fᵢ(w): all ν = ${nu} Hessian factors.`,
    hessian_free: "Each Hessian-vector product is a difference of two gradients.",
    truncated: `Only the last ${last} of ν = ${nu} Hessian factors are kept; the gradient stops here.`,
    first_order: "Every Hessian factor is dropped: this gradient itself is taken for the meta-gradient.",
  }[setting.gradient];

  stage("pick", `Round ${setting.round + 1}: pick`, `The server picks ${picked.length} of ${many(data.agents, "agent")}.`, { t: 0 });
  stage("send", "Send", `The server sends each of them the same w: ${many(data.parameters, "number")} of ${data.bytes} bytes, ` +
    `${kilobytes(each)}. No sample leaves an agent.`, { t: 0 });
  for (let t = 0; t < tau; t++) {
    const local = `Local step ${t + 1} of ${tau}: `;
    for (let j = 0; j < nu; j++)
      stage("fine-tune", `${local}fine-tuning step ${j + 1} of ${nu}`, `${w(j + 1)} = ${w(j)} − α ∇fᵢ(${w(j)}), with α = ` +
        `${setting.fine_tune_lr}, on a support batch of the agent's own. ` + (j ? "" : `${w(0)} is wᵢ, where the agent stands. `) +
        "Yellow: the loss on that batch before the step; underlined: where the step leads.", { t, j });
    stage("query", `${local}the loss on the query`, nu
      ? `Another batch, the query, scores every point on the way. The last loss is Fᵢ(w) = fᵢ(${w(nu)}), which training lowers.`
      : "ν = 0: nobody fine-tunes, and Fᵢ(w) = fᵢ(w). This is FedAvg.", { t });
    for (let b = 0; b <= last; b++)
      stage("meta-gradient", b ? `${local}back through fine-tuning step ${nu - b + 1}` : `${local}the gradient at ${nu ? w(nu) : "wᵢ"}`,
        (b ? `${v(nu - b)} = (I − α∇²fᵢ(${w(nu - b)})) ${v(nu - b + 1)}: how the loss at the end depends on ${w(nu - b)}.`
          : nu ? `${v(nu)} = ∇fᵢ(${w(nu)}), on the query.` : `${v(0)} = ∇fᵢ(wᵢ), on the query, where the agent stands now.`) + (b === last && nu ? ` ${factors}` : ""), { t, b });
    if (last < 0)
      stage("meta-gradient", `${local}the gradient`, setting.gradient === "reptile"
        ? `Reptile takes the way that fine-tuning went, (w − ${w(nu)})/α, and looks at no query.`
        : `The gradient is that of “${setting.gradient}”.`, { t });
    stage("local step", `${local}wᵢ ← wᵢ − β g`, `With β = ${setting.meta_lr}` + (last < 0 ? ". " : ` and g = ${v(nu - last)}. `) +
      (nu ? `Fine-tuning was only a look ahead: the step starts from ${w(0)}, not from ${w(nu)}.` : "") +
      (setting.proximal ? ` FedProx: g has μ (wᵢ − w) added, with μ = ${setting.proximal}.` : ""), { t });
  }
  stage("send back", "Send back", `After τ = ${many(tau, "local step")} each agent sends its wᵢ to the server, ${kilobytes(each)}.`);
  stage("average", "Average", `The server averages what came back; each agent counts ${equally}. Agents that pull in different directions cancel, so the ` +
    "average moves less than they do. Drop an agent, and see." +
    (data.plain ? " The average is the next w." : ` The next w is a step of server = “${setting.server}” with server_lr = ` +
      `${setting.server_lr} towards it; with all agents, w moves by ${rounded(data.step)}.`));

  // ---- The page, built once ----

  const button = (text, onclick, more = {}) => make("button", { type: "button", onclick, ...more }, text);
  const title = make("h2");
  const words = make("p", { class: "words" });
  const said = make("div", { class: "said", role: "status", "aria-live": "polite" }, title, words);
  const back = button("← Back", () => goTo(now - 1));
  const step = button("Step →", () => goTo(now + 1), { class: "main" });
  const player = gmfl.player({
    step: () => goTo(now + 1),
    begin: () => now === stages.length - 1 && goTo(0),
    every: 1400, calmly: 2500,
  });
  const bar = make("progress", { max: stages.length - 1, value: 0, "aria-label": "how far the round is" });
  const phases = PHASES.map((phase) => button(phase, () => goTo(firstOf(phase))));
  const line = make("ol", { class: "phases", "aria-label": "stages of the round" }, ...phases.map((one) => make("li", {}, one)));
  PHASES.forEach((phase, place) => (line.children[place].hidden = !stages.some((one) => one.phase === phase)));
  if (tau > 1) line.children[PHASES.indexOf("local step")].append(make("span", { class: "again" }, ` × ${tau}, from ${nu ? "fine-tune" : "query"} on`));
  const dots = make("p", { class: "dots", "aria-hidden": "true" });
  if (data.agents <= 60)
    for (let i = 0; i < data.agents; i++)
      dots.append(make("span", { class: picked.some(({ number }) => number === i) ? "dot picked" : "dot" }, String(i)));

  // One card an agent: a table whose columns are w⁽⁰⁾ … w⁽ᵛ⁾ and whose rows are losses and the gradient on its way back.
  const ROWS = [["support", "support loss"], ["query", "query loss"], ["back", "length of v"]].filter(([kind]) => kind !== "support" || nu);
  const highest = Object.fromEntries(ROWS.map(([kind]) =>
    [kind, Math.max(1e-12, ...picked.flatMap(({ steps }) => steps.flatMap((taken) => taken[kind])))]));
  const cards = picked.map((agent, place) => {
    const cells = ROWS.map(([kind]) => Array.from({ length: nu + 1 }, () => {
      const fill = make("span", { class: `fill ${kind}` });
      const number = make("span", { class: "number" });
      return { fill, number, cell: make("td", {}, make("span", { class: "pillar", "aria-hidden": "true" }, fill), number) };
    }));
    const heads = Array.from({ length: nu + 1 }, (_, j) => make("th", { scope: "col" }, w(j)));
    const rows = ROWS.map(([, name], row) => make("tr", {}, make("th", { scope: "row" }, name), ...cells[row].map(({ cell }) => cell)));
    const table = make("table", {},
      make("caption", {}, agent.holds),
      make("tr", {}, make("td"), ...heads),
      ...rows);
    const drop = button("", () => toggle(place), { class: "drop", "aria-label": `drop ${agent.name}` });
    const moved = make("p", { class: "moved" });
    const scroll = make("div", { class: "scroll" }, table);
    const box = make("section", { class: "card", "aria-label": agent.name }, make("h3", {}, make("span", {}, agent.name), drop), scroll, moved);
    return { agent, cells, heads, rows, drop, moved, box };
  });

  const facts = make("dl", { class: "facts" });
  const plane = make("svg", { role: "img" });
  const seen = make("figure", { class: "plane" }, plane, make("figcaption", {}, `w has ${data.parameters.toLocaleString("en")} numbers: this flat ` +
    `picture keeps ${data.share} % of the squared lengths of what is sent back. Solid: local steps. ` +
    (nu ? "Dotted: looks ahead, which may stand out of it. " : "") + "■: the average."));
  const server = make("section", { class: "server", "aria-label": "server" },
    make("div", {}, make("h3", {}, "Server"), dots, facts), seen);
  document.body.append(
    make("div", { class: "controls" }, back, step, player.button, bar), line, said, server,
    make("div", { class: "cards", style: `--columns: ${nu + 1}` }, ...cards.map(({ box }) => box)),
    make("p", { class: "keys" }, "Keys: ← and → step, the space bar plays and pauses (on a button it presses that), Home and End go to " +
      "the ends. To drop an agent, go to its button with Tab and press Enter."));

  // ---- What a stage shows ----

  let now = 0;
  const phaseOf = (at) => PHASES.indexOf(stages[at].phase);
  // Of a phase that comes back in every local step: the one of the local step that is shown.
  const firstOf = (phase) => {
    const same = stages.findIndex((one) => one.phase === phase && one.t === stages[now].t);
    return same < 0 ? stages.findIndex((one) => one.phase === phase) : same;
  };

  // Whether the number of a row and column is known at this stage.
  const known = ({ t, phase, j, b }, kind, column) => {
    const at = PHASES.indexOf(phase);
    if (kind === "support") return column < nu && (at > 2 || (at === 2 && column <= j));
    if (kind === "query") return at >= 3;
    return column >= nu - last && (at > 4 || (at === 4 && column >= nu - b));
  };

  const drawCard = ({ agent, cells, heads, rows, drop, moved, box }, place) => {
    const at = stages[now];
    const steps = agent.steps[at.t];
    const out = dropped.has(place);
    box.classList.toggle("out", out);
    box.classList.toggle("waiting", phaseOf(now) < 1);
    drop.textContent = out ? "Take back" : "Drop";
    drop.setAttribute("aria-pressed", out);
    ROWS.forEach(([kind], row) => rows[row].classList.toggle("later", phaseOf(now) < { support: 2, query: 3, back: 4 }[kind]));
    ROWS.forEach(([kind], row) => cells[row].forEach(({ fill, number, cell }, column) => {
      // v⁽ᵛ⁾ comes first in the data and stands last in the table.
      const value = steps[kind][kind === "back" ? nu - column : column];
      const shown = value !== undefined && known(at, kind, column);
      number.textContent = shown ? rounded(value) : "";
      fill.style.height = shown ? `${Math.max(3, (100 * value) / highest[kind])}%` : "0";
      const current = (kind === "support" && at.phase === "fine-tune" && column === at.j) ||
        (kind === "query" && at.phase === "query") || (kind === "back" && at.phase === "meta-gradient" && column === nu - at.b);
      cell.classList.toggle("current", current);
    }));
    const reached = at.phase === "fine-tune" ? at.j + 1 : at.phase === "meta-gradient" ? nu - (at.b ?? 0) : at.phase === "query" ? nu : 0;
    heads.forEach((head, j) => head.classList.toggle("here", phaseOf(now) > 0 && phaseOf(now) < 6 && j === reached));
    const before = at.t ? agent.steps[at.t - 1].displacement : 0;
    const taken = phaseOf(now) >= 5;
    const g = known(at, "back", nu - last) || taken ? `‖g‖ = ${rounded(steps.gradient)}; ` : "";
    const without = shares(kept().filter((other) => other !== place));
    const alone = kept().length === 1;
    moved.textContent = out ? "Dropped: what it sends does not count."
      : phaseOf(now) === 7 ? `‖wᵢ − w‖ = ${rounded(steps.displacement)}` +
        (alone ? "" : `\nwithout it the average's distance is ${rounded(lengthOf(without))}`)
      : phaseOf(now) < 1 ? "Waits for w." : `${g}‖wᵢ − w‖ = ${rounded(taken ? steps.displacement : before)}`;
  };

  const drawServer = () => {
    const { displacement, change, up, down } = average();
    const at = phaseOf(now);
    const p = shares(kept());
    const rows = [["w", `${data.parameters.toLocaleString("en")} numbers of ${data.bytes} bytes`]];
    rows.push(["sent down", at >= 1 ? kilobytes(down) : "nothing yet"], ["sent up", at >= 6 ? kilobytes(up) : "nothing yet"]);
    if (at === 7) {
      rows.push(["the average's distance", kept().length ? displacement.toPrecision(5) : "no agent is left: w stays"]);
      if (dropped.size) rows.push(["with all agents", lengthOf(everybody).toPrecision(5)]);
      if (dropped.size) rows.push(["dropping moved it by", change === null ? "–" : change.toPrecision(5)]);
    }
    facts.replaceChildren(...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
    drawPlane(at, p);
  };

  // Where everybody is, seen from above, in the plane that holds most of the updates: an agent's local steps from w, and
  // the fine-tuning that looks ahead from there. The average of the arrows is the arrow of the average.
  const FROM_W = data.walks.map((walk) => [[0, 0], ...walk.map((points) => points.at(-1))]);
  const ROOM = 12 + 6.5 * Math.max(...data.short.map((name) => name.length)); // of a name
  // Two views: with the looks ahead while there are any, and of the local steps alone at the end.
  const viewOf = (points) => {
    const [[left, right], [top, bottom]] = [1, -1].map((sign, axis) => points.map((point) => sign * point[axis]))
      .map((all) => [Math.min(...all), Math.max(...all)]);
    const zoom = 1 / Math.max((right - left) / 250, (bottom - top) / 100, 1e-12);
    const box = [left * zoom - ROOM, top * zoom - 18, (right - left) * zoom + 2 * ROOM, (bottom - top) * zoom + 36];
    return { zoom, box, lowest: bottom * zoom + 14 };
  };
  const [AHEAD, AT_LAST] = [[[0, 0], ...data.walks.flat(2)], FROM_W.flat()].map(viewOf);

  const drawPlane = (at, p) => {
    plane.replaceChildren();
    const { zoom, box, lowest } = at < 6 ? AHEAD : AT_LAST;
    const spot = ([x, y]) => [x * zoom, -y * zoom];
    const joined = (points) => points.map((point) => spot(point).map((at) => at.toFixed(2)).join(",")).join(" ");
    plane.setAttribute("viewBox", box.join(" "));
    const { t, j } = stages[now];
    const taken = at < 2 ? 0 : at < 5 ? t : t + 1; // local steps
    const tuned = at < 2 || at > 4 ? 0 : at === 2 ? j + 1 : nu; // fine-tuning steps from there
    const add = (what, more, ...inside) => plane.append(make(what, more, ...inside));
    const names = [];
    picked.forEach((_, place) => {
      const out = dropped.has(place) ? " out" : "";
      const way = FROM_W[place].slice(0, taken + 1);
      const here = way.at(-1);
      const ahead = [here, ...(tuned ? data.walks[place][t].slice(0, tuned) : [])];
      if (tuned) add("polyline", { points: joined(ahead), class: `ahead${out}` });
      for (const point of ahead.slice(1)) add("circle", { cx: spot(point)[0], cy: spot(point)[1], r: 2, class: `ahead${out}` });
      add("polyline", { points: joined(way), class: `update${out}` });
      for (const point of way.slice(1)) add("circle", { cx: spot(point)[0], cy: spot(point)[1], r: 3.5, class: `update${out}` });
      const [x, y] = spot(ahead.at(-1));
      if (taken || tuned) names.push({ x, y: y + (y < 0 ? -3 : 9), name: data.short[place], out });
    });
    if (at === 7 && kept().length) {
      const mean = spot([0, 1].map((axis) => FROM_W.reduce((sum, way, place) => sum + p[place] * way.at(-1)[axis], 0)));
      add("line", { x1: 0, y1: 0, x2: mean[0], y2: mean[1], class: "average" });
      add("rect", { x: mean[0] - 5, y: mean[1] - 5, width: 10, height: 10, class: "average" });
    }
    // A line of its own for every name: from top to bottom, and back up where there is no more room.
    const near = (one, others) => others.filter(({ x }) => Math.abs(x - one.x) < ROOM).map(({ y }) => y);
    names.sort((one, other) => one.y - other.y);
    names.forEach((one, place) => (one.y = Math.max(one.y, ...near(one, names.slice(0, place)).map((y) => y + 12))));
    [...names].reverse().forEach((one, place, up) =>
      (one.y = Math.min(one.y, lowest, ...near(one, up.slice(0, place)).map((y) => y - 12))));
    for (const { x, y, name, out } of names)
      add("text", { x: x + (x < 0 ? -6 : 6), y, "text-anchor": x < 0 ? "end" : "start", class: out }, name);
    add("circle", { cx: 0, cy: 0, r: 4, class: "start" });
    if (!taken) add("text", { x: -7, y: 4, "text-anchor": "end", class: "start" }, "w");
    plane.setAttribute("aria-label", `Where the agents are, seen from the server's w: ${many(taken, "local step")} taken` +
      (tuned ? `, ${many(tuned, "fine-tuning step")} looked ahead.` : ".") + (at === 7 ? " The square is the average." : ""));
  };

  const show = () => {
    const { title: heading, words: sentence } = stages[now];
    if (title.textContent !== heading) title.textContent = heading;
    words.textContent = sentence;
    back.setAttribute("aria-disabled", now === 0); // a disabled button would lose the focus, and with it the keys
    step.setAttribute("aria-disabled", now === stages.length - 1);
    bar.value = now;
    bar.textContent = `${now + 1} of ${stages.length}`;
    phases.forEach((one, place) => {
      if (place === phaseOf(now)) one.setAttribute("aria-current", "step");
      else one.removeAttribute("aria-current");
      one.classList.toggle("done", place < phaseOf(now));
    });
    cards.forEach(drawCard);
    drawServer();
  };

  // ---- What the reader does ----

  // Go to a stage, and say whether another one follows.
  const goTo = (at) => {
    now = Math.min(Math.max(at, 0), stages.length - 1);
    const more = now < stages.length - 1;
    if (!more) player.pause();
    show();
    return more;
  };
  const toggle = (place) => {
    if (!dropped.delete(place)) dropped.add(place);
    show();
    const { displacement } = average();
    const then = kept().length ? `Without those dropped, the average is ${displacement.toPrecision(5)} away from w.` : "No agent is left.";
    words.textContent = `${picked[place].name} is ${dropped.has(place) ? "dropped" : "back"}. ` +
      (phaseOf(now) === 7 ? then : "It will show in the average.");
  };

  Object.assign(gmfl.keys, {
    ArrowRight: () => goTo(now + 1), ArrowLeft: () => goTo(now - 1), Home: () => goTo(0), End: () => goTo(stages.length - 1),
  });

  // A table that is wider than its card is scrolled by keyboard, too.
  gmfl.whenChanged(() => {
    for (const scroll of document.querySelectorAll(".scroll")) {
      if (scroll.scrollWidth > scroll.clientWidth) scroll.tabIndex = 0;
      else scroll.removeAttribute("tabindex");
    }
  });
  show();
  Object.assign(gmfl, { stages, goTo, toggle, average, at: () => now, playing: player.playing });
}
