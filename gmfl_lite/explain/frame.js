// What every picture shares: the room it takes on the page around it, light and dark, and small makers of elements.
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

  return {
    data,
    dark,
    make,
    // Call a function whenever light turns dark or the frame's width changes, to draw again.
    whenChanged: (listener) => listeners.push(listener),
    // Whether the reader has asked for less motion.
    calm: () => matchMedia("(prefers-reduced-motion: reduce)").matches,
    // A colour of frame.css, colour("text"), as a canvas needs it.
    colour: (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim(),
  };
})();
