// Draws every figure of the page, in the reader's colours, at the page's width and as its panels fit there.
// Wide code and tables scroll by keyboard, too.
"use strict";
(() => {
  const NARROW = 620; // pixels of a figure's width below which its narrow arrangement is drawn, as in a report
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const templates = JSON.parse(document.getElementById("templates").textContent);
  const plots = [...document.querySelectorAll(".plot")];
  const shape = (plot) => (plot.clientWidth < NARROW ? "narrow" : "wide");

  function set(target, path, value) {
    const keys = path.replace(/\[(\d+)\]/g, ".$1").split(".");
    const last = keys.pop();
    let place = target;
    for (const key of keys) place = place[key] ??= {};
    place[last] = value;
  }

  function draw(plot) {
    const { data, layout } = JSON.parse(plot.querySelector("script").textContent);
    const choices = layout.meta?.arrangements ?? {};
    plot.dataset.shape = shape(plot);
    for (const [path, value] of Object.entries(choices[plot.dataset.shape] ?? {})) set(layout, path, value);
    for (const trace of data) Object.assign(trace, choices[`${plot.dataset.shape}_traces`] ?? {});
    layout.template = templates[dark.matches ? "dark" : "light"];
    delete layout.width;
    // A figure made with plotly alone keeps a phone's width for itself, and has its legend below.
    if (plot.dataset.shape === "narrow" && !layout.meta?.arrangements) {
      layout.legend = { ...layout.legend, orientation: "h", x: 0, y: -0.3, yanchor: "top" };
    }
    const place = document.createElement("div");
    for (const old of plot.querySelectorAll(".drawn")) {
      Plotly.purge(old);
      old.remove();
    }
    place.className = "drawn";
    plot.append(place);
    return Plotly.newPlot(place, data, layout, { responsive: true, displaylogo: false, displayModeBar: "hover" })
      .then(() => { plot.style.height = `${place._fullLayout.height}px`; });
  }

  const all = () => Promise.all(plots.map(draw));
  const sizes = new ResizeObserver((entries) => {
    for (const { target } of entries) if (target.clientWidth && target.dataset.shape !== shape(target)) draw(target);
  });
  all().then(() => {
    document.documentElement.dataset.figures = "drawn";
    for (const plot of plots) sizes.observe(plot);
  });
  dark.addEventListener("change", all);

  // What scrolls sideways can be scrolled by keyboard.
  const reach = () => {
    for (const each of document.querySelectorAll("pre, table")) {
      if (each.scrollWidth > each.clientWidth) each.tabIndex = 0;
      else each.removeAttribute("tabindex");
    }
  };
  reach();
  window.addEventListener("resize", reach);
})();
