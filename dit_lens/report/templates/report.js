/* The page's own behaviour: draws figures when they are chosen, fits them to the width, follows the colour mode. */
"use strict";
(() => {
  const NARROW = 620; // pixels of a figure's width below which its narrow arrangement is drawn
  const root = document.documentElement;
  const templates = JSON.parse(document.getElementById("templates").textContent);
  const plots = [...document.querySelectorAll(".plot")];
  const config = {
    displaylogo: false,
    responsive: false, // resizing is ours: it may change the arrangement
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg" },
  };

  // ---- colour mode: the reader's choice, else the system's
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  const remembered = () => {
    try { return window.localStorage.getItem("dit_lens.theme"); } catch { return null; }
  };
  const mode = () => root.dataset.theme || (system.matches ? "dark" : "light");
  function dress(plot, shown) {
    // A hidden figure is dressed when it is chosen: each costs a redraw.
    if (!plot.dataset.drawn || !plot.clientWidth || plot.dataset.mode === shown) return;
    plot.dataset.mode = shown;
    window.Plotly.relayout(plot, { template: templates[shown] });
  }
  function showMode() {
    const shown = mode();
    button.setAttribute("aria-pressed", String(shown === "dark"));
    root.dataset.figures = "changing";
    // What the reader sees first; the rest follows one per turn, so that the page answers at once.
    const middle = (box) => Math.abs(box.top + box.height / 2 - window.innerHeight / 2);
    const far = new Map(plots.map((plot) => [plot, middle(plot.getBoundingClientRect())]));
    const waiting = [...plots].sort((a, b) => far.get(a) - far.get(b));
    (function next() {
      if (shown !== mode()) return; // changed again meanwhile
      const plot = waiting.shift();
      if (!plot) {
        root.dataset.figures = "drawn";
        return;
      }
      dress(plot, shown);
      window.setTimeout(next, 0);
    })();
  }
  if (["light", "dark"].includes(remembered())) root.dataset.theme = remembered();
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = mode() === "dark" ? "light" : "dark";
    try { window.localStorage.setItem("dit_lens.theme", root.dataset.theme); } catch { /* private window */ }
    showMode();
  });
  system.addEventListener("change", () => showMode());

  // ---- drawing
  const shape = (plot) => (plot.clientWidth < NARROW ? "narrow" : "wide");
  function set(target, path, value) {
    const keys = path.replace(/\[(\d+)\]/g, ".$1").split(".");
    const last = keys.pop();
    let place = target;
    for (const key of keys) place = place[key] ??= {};
    place[last] = value;
  }
  function draw(plot) {
    if (plot.dataset.drawn || !plot.clientWidth) return;
    const figure = JSON.parse(plot.nextElementSibling.textContent);
    const choices = figure.layout.meta?.arrangements ?? {};
    plot.arrangements = choices;
    plot.dataset.shape = shape(plot);
    for (const [path, value] of Object.entries(choices[plot.dataset.shape] ?? {})) set(figure.layout, path, value);
    for (const trace of figure.data) Object.assign(trace, choices[`${plot.dataset.shape}_traces`] ?? {});
    figure.layout.template = templates[mode()];
    figure.layout.width = plot.clientWidth;
    plot.dataset.drawn = "yes";
    plot.dataset.mode = mode();
    window.Plotly.newPlot(plot, figure.data, figure.layout, config);
  }
  function fit(plot, width = plot.clientWidth) {
    if (!plot.dataset.drawn || !width) return;
    const wanted = width < NARROW ? "narrow" : "wide";
    const patch = { width };
    if (wanted !== plot.dataset.shape) {
      plot.dataset.shape = wanted;
      Object.assign(patch, plot.arrangements[wanted] ?? {});
      const traces = plot.arrangements[`${wanted}_traces`];
      if (traces) window.Plotly.restyle(plot, traces);
      plot.style.minHeight = "";
    }
    window.Plotly.relayout(plot, patch);
  }
  const sizes = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (!target.dataset.drawn) draw(target);
      else if (target.clientWidth && target.clientWidth !== target.layout?.width) fit(target);
    }
  });

  // ---- choosing one of several figures
  for (const select of document.querySelectorAll("select[data-section]")) {
    const figures = document.querySelectorAll(`#${CSS.escape(select.dataset.section)} .plot-figure`);
    const show = () => {
      for (const figure of figures) figure.hidden = figure.dataset.view !== select.value;
      const shown = [...figures].find((figure) => !figure.hidden).querySelector(".plot");
      draw(shown);
      fit(shown);
      dress(shown, mode());
    };
    select.addEventListener("change", show);
    if (select.value !== "0") show(); // a reloaded page keeps the reader's choice
  }

  // ---- paper is light, and as wide as a page
  window.addEventListener("beforeprint", () => {
    for (const plot of plots) {
      dress(plot, "light");
      fit(plot, 680);
    }
  });
  window.addEventListener("afterprint", () => {
    showMode();
    for (const plot of plots) fit(plot);
  });

  // ---- where the reader is
  const links = new Map([...document.querySelectorAll(".contents a")].map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        for (const link of links.values()) link.removeAttribute("aria-current");
        links.get(entry.target.id)?.setAttribute("aria-current", "true");
      }
    },
    { rootMargin: "-15% 0px -75% 0px" },
  );
  for (const section of document.querySelectorAll("main > section")) seen.observe(section);

  // ---- one figure per turn, so that the page can be read and scrolled while the rest is drawn
  const waiting = plots.filter((plot) => plot.clientWidth);
  (function next() {
    const plot = waiting.shift();
    if (!plot) {
      for (const one of plots) sizes.observe(one);
      root.dataset.figures = "drawn";
      return;
    }
    draw(plot);
    window.setTimeout(next, 0);
  })();
})();
