// What every picture shares: its room on the page around it, light and dark, play and pause, keys, makers of elements.
"use strict";

window.gmfl = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const listeners = [];
  let frame = null; // null where the page around keeps its frames apart: the still then stays, and this stays unseen
  try {
    frame = window.frameElement;
  } catch {}
  const around = frame?.ownerDocument;

  if (frame) {
    for (const other of frame.parentElement.children) if (other !== frame) other.style.display = "none";
    frame.style.height = `${document.body.dataset.height}px`;
  }

  // JupyterLab and Material for MkDocs say on the page's body what they show; other pages follow the system.
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => {
    const { jpThemeLight, mdColorScheme } = around?.body.dataset ?? {};
    if (jpThemeLight) return jpThemeLight === "false";
    if (mdColorScheme) return mdColorScheme === "slate";
    return system.matches;
  };
  const changed = () => {
    document.documentElement.dataset.theme = dark() ? "dark" : "light";
    for (const listener of listeners) listener();
  };
  changed();
  system.addEventListener("change", changed);
  if (around) {
    const attributeFilter = ["data-jp-theme-light", "data-md-color-scheme"];
    new MutationObserver(changed).observe(around.body, { attributeFilter });
  }

  // The body's own height does not depend on the frame's, so that this comes to rest.
  let width = 0;
  const fit = () => {
    if (frame) frame.style.height = `${Math.ceil(document.body.getBoundingClientRect().height)}px`;
    if (innerWidth !== width) {
      width = innerWidth;
      for (const listener of listeners) listener();
    }
  };
  new ResizeObserver(fit).observe(document.body);

  // make("button", {class: "step", onclick: step}, "Step", …): an element, its attributes, what it holds.
  const SVG = new Set(["svg", "g", "path", "circle", "line", "polyline", "polygon", "rect", "text", "title", "defs"]);
  const make = (tag, attributes = {}, ...children) => {
    const element = SVG.has(tag)
      ? document.createElementNS("http://www.w3.org/2000/svg", tag)
      : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== false && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  };

  // What keys do, key -> function, wherever the focus is, unless it is on something that knows the key itself.
  const keys = {};
  document.addEventListener("keydown", (event) => {
    const known = event.key === " " ? "button, select" : "select, input, [role=slider], .scroll";
    if (!keys[event.key] || event.target.closest?.(known) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    keys[event.key]();
  });

  // Nothing moves that nobody sees: in a tab behind another one, or scrolled away.
  const reduced = matchMedia("(prefers-reduced-motion: reduce)");
  let inSight = true;
  let keepTime = () => {};
  document.addEventListener("visibilitychange", () => keepTime());
  new IntersectionObserver((seen) => {
    inSight = seen.at(-1).isIntersecting;
    keepTime();
  }).observe(document.body);

  // player({step, begin, every, calmly, words}): a button, and the space bar, that play and pause.
  //   step(): go one step, and say whether there is another one
  //   begin(): what comes before the first step, such as to go back from the end
  //   every, calmly: milliseconds from step to step, and where less motion is asked for; 0 takes all steps at once
  const player = ({ step, begin, every, calmly, words = "Play" }) => {
    let playing = false;
    let timer = null;
    const button = make("button", { type: "button", class: "main", onclick: () => toggle() });
    keepTime = () => {
      clearInterval(timer);
      const moves = playing && inSight && !document.hidden;
      timer = moves ? setInterval(() => step() || pause(), (reduced.matches && calmly) || every) : null;
    };
    const turn = (on) => {
      playing = on;
      button.replaceChildren(make("span", { "aria-hidden": "true" }, on ? "❚❚ " : "▶ "), on ? "Pause" : words);
      keepTime();
    };
    const pause = () => turn(false);
    const start = () => {
      begin();
      if (!reduced.matches || calmly) turn(true);
      else while (step());
    };
    const toggle = () => (playing ? pause() : start());
    keys[" "] = toggle;
    pause();
    return { button, pause, playing: () => playing };
  };

  return {
    data,
    dark,
    keys,
    make,
    player,
    // Call a function whenever light turns dark or the frame's width changes, to draw again.
    whenChanged: (listener) => listeners.push(listener),
    // A colour of frame.css, colour("text"), as a canvas needs it.
    colour: (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim(),
  };
})();
