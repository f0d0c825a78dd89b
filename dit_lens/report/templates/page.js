/* The page's own behaviour: draws figures near the reader first, fits them to the width, follows the colour mode. */
"use strict";
(() => {
  const NARROW = 620; // pixels of a figure's width below which its narrow arrangement is drawn
  const PAPER = 680; // pixels of a figure's width in print
  const root = document.documentElement;
  const templates = JSON.parse(document.getElementById("templates").textContent);
  const plots = [...document.querySelectorAll(".plot")];
  const announce = document.getElementById("said");
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
        settle();
        return;
      }
      dress(plot, shown);
      window.setTimeout(next, 0);
    })();
  }
  if (["light", "dark"].includes(remembered())) root.dataset.theme = remembered();
  button.hidden = false;
  button.setAttribute("aria-pressed", String(mode() === "dark"));
  button.addEventListener("click", () => {
    root.dataset.theme = mode() === "dark" ? "light" : "dark";
    try { window.localStorage.setItem("dit_lens.theme", root.dataset.theme); } catch { /* private window */ }
    showMode();
  });
  system.addEventListener("change", () => showMode());

  // ---- drawing
  const settle = () => { root.dataset.figures = waiting.length ? "drawing" : "drawn"; };
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
    plot.style.minHeight = "";
    plot.dispatchEvent(new CustomEvent("figure-drawn", { bubbles: true }));
    sizes.observe(plot);
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
    }
    window.Plotly.relayout(plot, patch);
  }
  let printing = false; // paper has a width of its own, whatever the window's is
  const sizes = new ResizeObserver((entries) => {
    if (printing) return;
    for (const { target } of entries) {
      if (target.clientWidth && target.clientWidth !== target.layout?.width) fit(target);
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

  // ---- figures near the reader at once, the others one by one while nothing else is to be done
  const waiting = plots.filter((plot) => plot.clientWidth);
  const near = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        near.unobserve(target);
        draw(target);
      }
    },
    { rootMargin: "300px 0px" },
  );
  for (const plot of waiting) near.observe(plot);
  const idle = window.requestIdleCallback?.bind(window) ?? ((later) => window.setTimeout(later, 20));
  root.dataset.figures = "drawing";
  (function next() {
    const plot = waiting.find((each) => !each.dataset.drawn && each.clientWidth);
    if (plot) draw(plot);
    else waiting.length = 0;
    if (waiting.length) idle(next, { timeout: 150 });
    else settle();
  })();

  // ---- paper is light, as wide as a page, and cannot be unfolded
  let unfolded = [];
  window.addEventListener("beforeprint", () => {
    printing = true;
    unfolded = [...document.querySelectorAll("details.printed:not([open])")];
    for (const each of unfolded) each.open = true;
    for (const plot of plots) {
      draw(plot);
      dress(plot, "light");
      fit(plot, PAPER);
    }
  });
  window.addEventListener("afterprint", () => {
    printing = false;
    for (const each of unfolded) each.open = false;
    showMode();
    for (const plot of plots) fit(plot);
  });

  // ---- contents: folded on a phone, and marking where the reader is
  const contents = document.querySelector(".contents");
  const fold = contents.querySelector("details");
  const roomy = window.matchMedia("(min-width: 1080px)");
  const unfold = () => { fold.open = roomy.matches; };
  roomy.addEventListener("change", unfold);
  unfold();
  const links = new Map([...contents.querySelectorAll("a")].map((link) => [link.hash.slice(1), link]));
  for (const link of links.values()) link.addEventListener("click", () => { if (!roomy.matches) fold.open = false; });
  const mark = (id) => {
    const link = links.get(id);
    if (!link || link.hasAttribute("aria-current")) return;
    for (const other of links.values()) other.removeAttribute("aria-current");
    link.setAttribute("aria-current", "true");
    if (contents.scrollHeight > contents.clientHeight) {
      const away = link.getBoundingClientRect().top - contents.getBoundingClientRect().top;
      if (away < 0 || away > contents.clientHeight - 40) contents.scrollTop += away - contents.clientHeight / 3;
    }
  };
  const seen = new IntersectionObserver(
    (entries) => { for (const entry of entries) if (entry.isIntersecting) mark(entry.target.id); },
    { rootMargin: "-15% 0px -75% 0px" },
  );
  for (const section of document.querySelectorAll("main > section")) seen.observe(section);

  // ---- copying, which works from a file on disk as well
  async function copy(text, what) {
    let done = true;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const field = document.createElement("textarea");
      field.value = text;
      field.className = "visually-hidden";
      document.body.append(field);
      const before = document.activeElement;
      field.select();
      done = document.execCommand("copy");
      field.remove();
      before?.focus();
    }
    announce.textContent = "";
    window.setTimeout(() => { announce.textContent = done ? `${what} copied` : "Copying is not allowed here"; }, 30);
    return done;
  }
  for (const each of document.querySelectorAll("button.copy")) {
    each.hidden = false;
    each.addEventListener("click", async () => {
      const done = await copy(each.parentElement.querySelector("code").textContent, "Text");
      each.textContent = done ? "Copied" : "Not copied";
      window.setTimeout(() => { each.textContent = "Copy"; }, 1600);
    });
  }
  for (const anchor of document.querySelectorAll("a.anchor")) {
    anchor.addEventListener("click", () => copy(anchor.href, "Link to this section"));
  }
})();
