/* Pictures of one cell of a block × step map: the cell under the pointer, or the one that the sliders name. */
"use strict";
(() => {
  for (const panel of document.querySelectorAll(".cells")) {
    const { blocks, steps } = JSON.parse(panel.dataset.cells);
    const section = panel.closest("section");
    const [block, step] = [panel.querySelector(".cells-block"), panel.querySelector(".cells-step")];
    const prompt = panel.querySelector(".cells-prompt");
    const rows = [...panel.querySelectorAll(".cell-row")];
    const status = panel.querySelector("[role=status]");
    const share = (index, amount) => (amount > 1 ? (100 * index) / (amount - 1) : 0);
    function show(speak) {
      const [i, j] = [Number(block.value), Number(step.value)];
      const where = `block ${blocks[i]}, step ${steps[j]}`;
      block.setAttribute("aria-valuetext", `block ${blocks[i]}`);
      step.setAttribute("aria-valuetext", `step ${steps[j]}`);
      block.nextElementSibling.textContent = blocks[i];
      step.nextElementSibling.textContent = steps[j];
      for (const row of rows) {
        row.hidden = row.dataset.group !== (prompt?.value ?? "0");
        for (const picture of row.querySelectorAll(".cell-picture")) {
          const fixed = "fixed" in picture.dataset;
          const what = fixed ? picture.dataset.name : `${picture.dataset.name} edited in ${where}`;
          picture.setAttribute("aria-label", `${what}: ${row.dataset.who}`);
          if (!fixed) picture.style.backgroundPosition = `${share(j, steps.length)}% ${share(i, blocks.length)}%`;
        }
      }
      panel.dataset.at = where;
      if (speak) status.textContent = `Pictures of ${where}`;
    }
    function point() {
      // The numbers of the cell appear on the map as if the pointer stood there.
      show(true);
      const plot = section.querySelector(".plot-figure:not([hidden]) .plot");
      if (!plot?.dataset.drawn) return;
      window.Plotly.Fx.hover(plot, { xval: steps[step.value], yval: blocks[block.value] }, "xy");
    }
    function leave() {
      const plot = section.querySelector(".plot-figure:not([hidden]) .plot");
      if (plot?.dataset.drawn) window.Plotly.Fx.unhover(plot);
    }
    function follow(event) {
      const { x, y } = event.points[0];
      const [i, j] = [blocks.indexOf(Number(y)), steps.indexOf(Number(x))];
      if (i < 0 || j < 0) return;
      block.value = String(i);
      step.value = String(j);
      show(false);
    }
    section.addEventListener("figure-drawn", (event) => {
      event.target.on("plotly_hover", follow);
      event.target.on("plotly_click", follow);
    });
    for (const slider of [block, step]) {
      slider.addEventListener("input", point);
      slider.addEventListener("blur", leave);
    }
    prompt?.addEventListener("change", () => show(true));
    panel.hidden = false;
    show(false);
  }
})();
