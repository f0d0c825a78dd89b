// Draws every figure of the page, in the reader's colours and at the page's width.
"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const templates = JSON.parse(document.getElementById("templates").textContent);

  function draw(plot) {
    const figure = JSON.parse(plot.querySelector("script").textContent);
    // Figures say themselves how their panels stand on a narrow page.
    const arrangements = figure.layout.meta?.arrangements;
    const narrow = arrangements && plot.clientWidth < 620 ? arrangements.narrow : undefined;
    const layout = { ...figure.layout, template: templates[dark.matches ? "dark" : "light"] };
    delete layout.width;
    const place = document.createElement("div");
    plot.querySelector(".drawn")?.remove();
    place.className = "drawn";
    plot.append(place);
    return Plotly.newPlot(place, figure.data, layout, { responsive: true, displaylogo: false, displayModeBar: "hover" })
      .then(() => narrow && Plotly.relayout(place, narrow))
      .then(() => { plot.style.height = `${place._fullLayout.height}px`; });
  }

  const all = () => Promise.all([...document.querySelectorAll(".plot")].map(draw));
  all().then(() => { document.documentElement.dataset.figures = "drawn"; });
  dark.addEventListener("change", all);
})();
