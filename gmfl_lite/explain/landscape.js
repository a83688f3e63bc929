// The landscape player: w is dragged, ν morphs the mean loss, and rounds of three methods are played from w.
"use strict";

(() => {
  const { data, make, colour } = gmfl;
  const MOST_ROUNDS = 60;
  const REST = 0.3; // of the drawing's units: who moves less in a round has come to rest
  const [WIDTH, HEIGHT] = [560, 560 / data.aspect]; // of the drawing, in its own units
  const GRID = 45; // points along each side at which the loss is computed
  const LEVELS = 10;
  const DASHES = ["", "9 4", "3 3"]; // of the methods, for whoever does not see their colours

  const state = {
    w: data.start,
    nu: data.nu,
    settings: { ...data.settings },
    rounds: 0,
    visited: [], // of each method: w after 0, 1, … rounds
  };

  // The same numbers as the library's, for tests and for whoever opens the console.
  const settingsWith = (changes) => ({ ...state.settings, ...changes });
  Object.assign(gmfl, {
    state,
    meta_loss: (w, nu, changes) => metaObjective.metaLoss(w, nu, settingsWith(changes)),
    gradient: (w, nu, method, changes) => metaObjective.metaGradient(w, nu, settingsWith({ method, ...changes })),
    path: (agent, w, nu, changes) => metaObjective.path(agent, w, nu, settingsWith(changes)),
    round: (w, nu, method, changes) => metaObjective.round(w, nu, settingsWith({ method, ...changes })),
  });

  const methods = () => [
    { ...data.methods[0], nu: 0, words: "FedAvg" },
    { ...data.methods[1], nu: 1, words: "Per-FedAvg" },
    { ...data.methods[2], nu: state.nu, words: `ν = ${state.nu}` },
  ];

  // ---- from numbers to the drawing ---------------------------------------------------------------------------------

  const { x: [left, right], y: [bottom, top] } = data.window;
  const across = (w1) => ((w1 - left) / (right - left)) * WIDTH;
  const down = (w2) => ((top - w2) / (top - bottom)) * HEIGHT;
  const spot = (w) => [across(w[0]), down(w[1])];
  // Far outside the window a point is as good as at its edge; the drawing need not hold 1e300.
  const near = (w) => spot(w).map((at) => Math.max(-1e4, Math.min(1e4, at)));
  const joined = (points) => points.map((w) => near(w).map((at) => at.toFixed(1)).join(",")).join(" ");
  const finite = (w) => w.every((at) => Math.abs(at) < 1e6);
  const inside = (w) => [Math.min(right, Math.max(left, w[0])), Math.min(top, Math.max(bottom, w[1]))];
  const apart = ([x0, y0], [x1, y1]) => Math.hypot(x1 - x0, y1 - y0);
  const minus = (number) => number.replace("-", "−");
  const shown = (number) => minus(Number.isFinite(number) ? number.toPrecision(3).replace("e", "·10^") : "∞");
  const placed = (w) => `(${w.map((at) => minus(at.toFixed(2))).join(", ")})`;
  const counted = (number, thing) => `${number} ${thing}${number === 1 ? "" : "s"}`;

  // ---- what is on the page -----------------------------------------------------------------------------------------

  const shades = make("canvas", { width: GRID * 10, height: GRID * 10, "aria-hidden": "true" });
  const layer = (name) => make("g", { class: name });
  const [paths, trails, arrows] = ["paths", "trails", "arrows"].map(layer);
  const lowestMark = make("path", { class: "lowest", d: "M-6,-6L6,6M-6,6L6,-6" });
  const handle = make(
    "g",
    {
      class: "handle", tabindex: "0", role: "slider", "aria-valuemin": left, "aria-valuemax": right,
      "aria-label": "w, the shared start. Arrow keys move it, with Shift further.",
    },
    make("circle", { class: "reach", r: 26 }),
    make("circle", { class: "ring", r: 15 }),
    make("circle", { class: "knob", r: 10 }),
    make("text", { y: 5 }, "w"),
  );
  // Whole numbers along both axes, or halves where there are few, as far as the letters of the axes leave room.
  const every = Math.min(right - left, top - bottom) < 3 ? 0.5 : 1;
  const scale = () => {
    const round = (low, high) =>
      Array.from({ length: Math.floor(high / every) - Math.ceil(low / every) + 1 }, (_, k) => every * (Math.ceil(low / every) + k));
    const number = (at, place) => make("text", { class: "tick", ...place }, minus(String(at)));
    return [
      ...round(left, right).filter((at) => across(at) > 20 && across(at) < WIDTH - 60)
        .map((at) => number(at, { x: across(at), y: HEIGHT - 9, "text-anchor": "middle" })),
      ...round(bottom, top).filter((at) => down(at) > 40 && down(at) < HEIGHT - 20).map((at) => number(at, { x: 9, y: down(at) + 5 })),
    ];
  };
  const [height, hidden] = ["height", "hidden-arrows"].map((name) => make("span", { class: name }));
  const optima = data.agents.map(({ name }) =>
    make("g", { class: "optimum" }, make("circle", { r: 11 }), make("text", { y: 4.5 }, name.slice(0, 2))));
  const drawing = make(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group", "aria-label": "The mean loss over w₁ and w₂" },
    make("text", { class: "axis", x: WIDTH - 8, y: HEIGHT - 9, "text-anchor": "end" }, "w₁ →"),
    make("text", { class: "axis", x: 9, y: 19 }, "w₂ ↑"),
    ...scale(),
    lowestMark, paths, ...optima, trails, arrows, handle,
  );

  // Put a mark somewhere, as large as can be read in a small drawing, too.
  const put = (mark, [x, y]) => {
    const size = Math.max(1, 400 / (drawing.getBoundingClientRect().width || 400));
    mark.setAttribute("transform", `translate(${x},${y}) scale(${size})`);
  };

  // A slider with its name and its value in words.
  const slider = (name, { min = 0, max, value, words, change }) => {
    const output = make("span", { class: "value", "aria-hidden": "true" }); // the slider says it itself
    const input = make("input", { type: "range", min, max, step: 1, value, oninput: () => update() });
    const update = () => {
      const text = words(Number(input.value));
      output.textContent = text;
      input.setAttribute("aria-valuetext", text);
      change(Number(input.value));
    };
    const set = (value) => {
      input.value = value;
      output.textContent = words(value);
      input.setAttribute("aria-valuetext", words(value));
    };
    set(value);
    return { set, row: make("label", { class: "knob" }, make("span", {}, name), output, input) };
  };
  const stepSize = (name, setting) => {
    const at = (tick) => data.settings[setting] * (tick / 20); // the first value is in the middle, exactly
    return slider(name, {
      max: 40, value: 20, words: (tick) => String(Number(at(tick).toPrecision(3))),
      change: (tick) => change({ [setting]: at(tick) }),
    });
  };

  const most = data.most_steps;
  const knobs = {
    nu: slider("ν: fine-tuning steps looked ahead", {
      max: most, value: state.nu, words: String,
      change: (nu) => { state.nu = nu; restart(); },
    }),
    fine_tune_lr: stepSize("α: fine-tuning step", "fine_tune_lr"),
    local_steps: slider("τ: steps per round", {
      min: 1, max: most, value: state.settings.local_steps, words: String,
      change: (local_steps) => change({ local_steps }),
    }),
    meta_lr: stepSize("β: local step", "meta_lr"),
    backprop_steps: slider("m: Hessian factors kept", {
      max: most, value: state.settings.backprop_steps,
      words: (m) => (m > state.nu ? `${m} (all ${state.nu})` : String(m)),
      change: (backprop_steps) => change({ backprop_steps }),
    }),
  };
  const GRADIENTS = { exact: "exact", first_order: "first-order (no Hessians)", truncated: "truncated" };
  const options = Object.entries(GRADIENTS).map(([value, words]) =>
    make("option", { value, selected: value === state.settings.method }, words));
  const select = make("select", { onchange: () => change({ method: select.value }) }, ...options);
  const gradient = make("label", { class: "choice" }, make("span", {}, "meta-gradient"), select);

  // As it was when the page was opened.
  const afresh = () => {
    Object.assign(state, { w: data.start, nu: data.nu, settings: { ...data.settings } });
    for (const name of ["nu", "local_steps", "backprop_steps"]) knobs[name].set(data[name] ?? data.settings[name]);
    for (const name of ["fine_tune_lr", "meta_lr"]) knobs[name].set(20);
    select.value = data.settings.method;
    restart();
  };

  const button = (words, onclick) => make("button", { type: "button", onclick }, words);
  const player = gmfl.player({
    step: () => oneRound(),
    begin: () => state.rounds >= MOST_ROUNDS && restart(false),
    every: 350, calmly: 0, words: "Play rounds",
  });
  const step = button("Step", () => { player.pause(); oneRound(); });
  const again = button("Clear rounds", () => restart(false));
  const reset = button("Reset", afresh);
  const status = make("p", { class: "status", role: "status" });

  const swatch = ({ colour }, index) => {
    const line = { x1: 1, y1: 7, x2: 33, y2: 7 };
    return make("svg", { class: "swatch", viewBox: "0 0 34 14", "aria-hidden": "true" },
      make("line", { class: "casing", ...line }),
      make("line", { ...line, stroke: colour, "stroke-width": 3.5, "stroke-dasharray": DASHES[index] }));
  };
  const caption = make("caption", {});
  const after = make("th", { scope: "col" });
  const rows = methods().map((method, index) => {
    const [name, place, now, tuned] = [make("span", {}), make("td", {}), make("td", {}), make("td", {})];
    const head = make("th", { scope: "row" }, swatch(method, index), name);
    return { name, place, now, tuned, row: make("tr", {}, head, place, now, tuned) };
  });
  const head = ["method", "its w", "before fine-tuning"].map((text) => make("th", { scope: "col" }, text));
  const table = make("table", {}, caption, make("thead", {}, make("tr", {}, ...head, after)),
    make("tbody", {}, ...rows.map(({ row }) => row)));

  const LEGEND = [
    "Dotted paths: fine-tuning. From w each agent takes ν steps of size α towards its own optimum, the circle with its " +
      "name.",
    "Arrows: one round. From w each agent takes τ local steps of size β down its own loss after 0, 1 or ν fine-tuning " +
      "steps; the server averages. The tip is the next w.",
    "Rings: equal mean loss after ν fine-tuning steps, least at ×. Every ν has shades of its own: read the numbers in the " +
      "corner, not the contrast. A large ν often makes the landscape flatter, and the way down longer.",
    "× moves with ν: what fine-tuning mends need not be right at the start.",
    "Meta-gradient: exact goes back through all ν steps, with a Hessian factor for each; truncated keeps the last m of " +
      "them, first-order none, and both may come to rest away from ×.",
  ];
  const legend = make("ul", { class: "legend" }, ...LEGEND.map((words) => make("li", {}, words)));

  document.body.append(
    make("main", {},
      make("header", {}, make("h1", {}, "Drag w, the shared start"),
        make("p", {}, "Training looks for the w from which all agents fine-tune well. " +
          "Change ν: the landscape changes, and so does the way down.")),
      make("div", { class: "plot", style: `aspect-ratio: ${data.aspect}` }, shades, drawing,
        make("p", { class: "notes" }, height, hidden)),
      make("div", { class: "controls" }, knobs.nu.row, knobs.fine_tune_lr.row, knobs.local_steps.row, knobs.meta_lr.row,
        gradient, knobs.backprop_steps.row, make("div", { class: "buttons" }, player.button, step, again, reset), status),
      table, legend),
  );

  // ---- drawing -----------------------------------------------------------------------------------------------------

  // F on a grid, as heights: logarithms of what is above the lowest, so that a valley's bottom shows like its walls.
  let grid = null;
  const heights = () => {
    const values = new Float64Array(GRID * GRID);
    for (let row = 0; row < GRID; row++) {
      const w2 = top - (row / (GRID - 1)) * (top - bottom);
      for (let column = 0; column < GRID; column++) {
        const w1 = left + (column / (GRID - 1)) * (right - left);
        const value = gmfl.meta_loss([w1, w2], state.nu); // NaN where infinite losses meet
        values[row * GRID + column] = Number.isFinite(value) ? value : Infinity;
      }
    }
    const highest = Math.max(...values);
    // Where fine-tuning diverges somewhere, the rest still shows.
    const cap = 1e3 * [...values].sort((a, b) => a - b)[values.length >> 1];
    values.forEach((value, at) => (values[at] = Math.min(value, cap)));
    const lowest = Math.min(...values);
    const range = Math.max(...values) - lowest;
    const logs = values.map((value) => Math.log(value - lowest + 1e-3 * range + Number.MIN_VALUE));
    const [low, high] = [Math.min(...logs), Math.max(...logs)];
    height.textContent = `mean loss here: ${shown(lowest)} to ${shown(highest)}`;
    return { at: values.indexOf(lowest), heights: logs.map((log) => ((log - low) / (high - low || 1)) * LEVELS) };
  };

  // From the lowest point of the grid to the lowest point near it, with steps that halve.
  const lowestPoint = (at) => {
    const [row, column] = [Math.floor(at / GRID), at % GRID];
    let w = [left + (column / (GRID - 1)) * (right - left), top - (row / (GRID - 1)) * (top - bottom)];
    let value = gmfl.meta_loss(w, state.nu);
    for (let size = (right - left) / GRID; size > 1e-3 * (right - left); ) {
      const around = [[size, 0], [-size, 0], [0, size], [0, -size]].map(([dx, dy]) => inside([w[0] + dx, w[1] + dy]));
      const losses = around.map((point) => gmfl.meta_loss(point, state.nu));
      const best = losses.indexOf(Math.min(...losses));
      if (losses[best] < value) [w, value] = [around[best], losses[best]];
      else size /= 2;
    }
    return w;
  };

  const paint = () => {
    drawing.style.setProperty("--unit", String(WIDTH / (drawing.getBoundingClientRect().width || WIDTH)));
    const side = shades.width;
    const context = shades.getContext("2d");
    const image = context.createImageData(side, side);
    const [from, to] = ["low", "high"].map((name) => colour(name).match(/\w\w/g).map((hex) => parseInt(hex, 16)));
    const level = new Uint8Array(side * side);
    for (let row = 0; row < side; row++) {
      const v = (row / (side - 1)) * (GRID - 1.001);
      const i = Math.floor(v);
      for (let column = 0; column < side; column++) {
        const u = (column / (side - 1)) * (GRID - 1.001);
        const j = Math.floor(u);
        const corner = (di, dj) => grid.heights[(i + di) * GRID + j + dj];
        const upper = corner(0, 0) + (u - j) * (corner(0, 1) - corner(0, 0));
        const lower = corner(1, 0) + (u - j) * (corner(1, 1) - corner(1, 0));
        const at = row * side + column;
        level[at] = Math.min(LEVELS - 1, upper + (v - i) * (lower - upper));
        // Where a level ends there is a line.
        const edge = (column && level[at] !== level[at - 1]) || (row && level[at] !== level[at - side]);
        const share = level[at] / (LEVELS - 1) + (edge ? 0.18 : 0);
        for (let c = 0; c < 3; c++) image.data[4 * at + c] = from[c] + share * (to[c] - from[c]);
        image.data[4 * at + 3] = 255;
      }
    }
    context.putImageData(image, 0, 0);
    put(lowestMark, spot(lowestPoint(grid.at)));
    optima.forEach((mark, agent) => put(mark, near(data.agents[agent].optimum)));
  };

  const drawPaths = () => {
    paths.replaceChildren(...data.agents.flatMap((_, agent) => {
      const visited = gmfl.path(agent, state.w, state.nu).filter(finite);
      const dots = visited.slice(1).map((w) => make("circle", { cx: near(w)[0], cy: near(w)[1], r: 3 }));
      const [x, y] = near(visited.at(-1));
      const free = [state.w, data.agents[agent].optimum].every((w) => apart([x, y], near(w)) > 26);
      const name = free ? [make("text", { class: "axis", x: x + 6, y: y - 6 }, data.agents[agent].name.slice(0, 2))] : [];
      return [make("polyline", { points: joined(visited) }), ...dots, ...name];
    }));
  };

  // A line and a darker or lighter one below it, so that its colour shows on every shade.
  const line = (points, { colour: stroke }, index) => {
    const look = { stroke, "stroke-width": 3.5, "stroke-dasharray": DASHES[index] };
    return [{ class: "casing" }, look].map((each) => make("polyline", { points: joined(points), ...each }));
  };

  const tip = (from, to, { colour }) => {
    const [[x0, y0], [x1, y1]] = [near(from), near(to)];
    const length = Math.hypot(x1 - x0, y1 - y0);
    if (length < 4) return [];
    const [ux, uy] = [(x1 - x0) / length, (y1 - y0) / length];
    const size = Math.min(13, length);
    const corner = (side) => `${x1 - size * ux + side * size * 0.5 * uy},${y1 - size * uy - side * size * 0.5 * ux}`;
    return [make("polygon", { points: `${x1},${y1} ${corner(1)} ${corner(-1)}`, fill: colour, class: "head" })];
  };

  // Where a round would lead from w; once rounds are played their trails say it. What cannot be seen is said.
  const drawArrows = () => {
    const ends = methods().map((method) => gmfl.round(state.w, method.nu, state.settings.method));
    const shows = state.rounds === 0;
    arrows.replaceChildren(...methods().flatMap((method, index) =>
      shows && finite(ends[index]) ? [...line([state.w, ends[index]], method, index), ...tip(state.w, ends[index], method)] : []));
    const notes = methods().map(({ words }, index) => {
      if (!shows || !finite(ends[index])) return "";
      if (apart(near(ends[index]), near(state.w)) < 14) return `${words}: too short an arrow to see`;
      const above = methods().findLast((_, other) => other > index && apart(near(ends[index]), near(ends[other])) < 3);
      return above ? `${words}: below the arrow of ${above.words}` : "";
    });
    hidden.textContent = notes.filter(Boolean).join("; ");
  };

  const drawTrails = () => {
    trails.replaceChildren(...methods().flatMap((method, index) => {
      const points = state.visited[index].filter(finite);
      if (points.length < 2) return [];
      const [cx, cy] = near(points.at(-1));
      return [...line(points, method, index), make("circle", { class: "end", cx, cy, r: 7, fill: method.colour })];
    }));
  };

  const say = () => {
    const { w, nu } = state;
    const [now, tuned] = [gmfl.meta_loss(w, 0), gmfl.meta_loss(w, nu)];
    put(handle, spot(w));
    handle.setAttribute("aria-valuenow", w[0].toFixed(3));
    const [w1, w2] = w.map((at) => minus(at.toFixed(2)));
    const losses = `mean loss ${shown(now)}, after ${counted(nu, "fine-tuning step")} ${shown(tuned)}`;
    handle.setAttribute("aria-valuetext", `w₁ ${w1}, w₂ ${w2}; ${losses}`);
    caption.textContent = state.rounds ? `Mean loss after ${counted(state.rounds, "round")}` : "Mean loss at w, the same for all until rounds are played";
    after.textContent = `after ${counted(nu, "step")}`;
    methods().forEach((method, index) => {
      const at = state.visited[index].at(-1);
      const row = rows[index];
      row.name.textContent = method.words;
      row.place.textContent = finite(at) ? placed(at) : "left the picture";
      row.now.textContent = shown(gmfl.meta_loss(at, 0));
      row.tuned.textContent = shown(gmfl.meta_loss(at, nu));
    });
    knobs.backprop_steps.row.hidden = state.settings.method !== "truncated";
  };

  // Draw once in each frame of the screen, however often something moves in between.
  let waiting = false;
  const draw = (shape = true) => {
    if (shape) grid = null;
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      if (!grid) {
        grid = heights();
        paint();
      }
      drawPaths();
      drawArrows();
      drawTrails();
      say();
    });
  };

  // ---- what happens ------------------------------------------------------------------------------------------------

  const restart = (shape = true) => {
    player.pause();
    state.rounds = 0;
    state.visited = data.methods.map(() => [state.w]);
    status.textContent = "";
    draw(shape);
  };

  const change = (changes) => {
    Object.assign(state.settings, changes);
    restart("fine_tune_lr" in changes);
  };

  const moveTo = (w) => {
    state.w = inside(w);
    restart(false);
  };

  // One round of every method; false if there is nothing more to see.
  const oneRound = () => {
    const gone = () => methods().filter((_, index) => !finite(state.visited[index].at(-1))).map(({ words }) => words);
    const diverged = () => `${gone().join(" and ")} diverged: lower α or β.`;
    if (state.rounds >= MOST_ROUNDS) {
      const moving = methods().filter((_, index) => apart(...state.visited[index].slice(-2).map(near)) >= REST)
        .map(({ words }) => words);
      status.textContent = gone().length ? diverged() : `${MOST_ROUNDS} rounds are shown at most` +
        (moving.length ? `; still on the way: ${moving.join(", ")}. A larger β or τ goes faster.` : ". Reset, or move w.");
      return false;
    }
    let moved = 0;
    state.rounds += 1;
    methods().forEach((method, index) => {
      const visited = state.visited[index];
      const before = visited.at(-1);
      visited.push(finite(before) ? gmfl.round(before, method.nu, state.settings.method) : before);
      moved = Math.max(moved, apart(near(before), near(visited.at(-1))));
    });
    if (gone().length) status.textContent = diverged();
    else if (moved < REST) status.textContent = "All three have come to rest.";
    draw(false);
    return gone().length === 0 && moved >= REST;
  };

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  handle.addEventListener("keydown", (event) => {
    const direction = ARROWS[event.key];
    if (!direction) return;
    event.preventDefault();
    const size = event.shiftKey ? 0.1 : 0.02;
    moveTo([state.w[0] + direction[0] * size * (right - left), state.w[1] + direction[1] * size * (top - bottom)]);
  });

  // A mouse may press anywhere, a finger only on w: elsewhere it scrolls the page.
  const pointed = ({ clientX, clientY }) => {
    const box = drawing.getBoundingClientRect();
    const [x, y] = [(clientX - box.left) / box.width, (clientY - box.top) / box.height];
    return [left + x * (right - left), top - y * (top - bottom)];
  };
  let held = null; // the pointer that drags w
  drawing.addEventListener("pointerdown", (event) => {
    if (event.button || (event.pointerType !== "mouse" && !handle.contains(event.target))) return;
    event.preventDefault();
    held = event.pointerId;
    drawing.setPointerCapture(held);
    handle.focus({ preventScroll: true });
    moveTo(pointed(event));
  });
  handle.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
  drawing.addEventListener("pointermove", (event) => {
    if (event.pointerId === held) moveTo(pointed(event));
  });
  drawing.addEventListener("lostpointercapture", () => (held = null));

  gmfl.whenChanged(() => draw());
  restart();
})();
