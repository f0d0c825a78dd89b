/* Galleries: one prompt at a time, and a cut that moves between its reference image and the one chosen. */
"use strict";
(() => {
  for (const group of document.querySelectorAll(".compare")) {
    const stage = group.querySelector(".stage");
    if (!stage) continue;
    const pair = stage.querySelector(".pair");
    const over = stage.querySelector(".over");
    const slider = stage.querySelector("input");
    const reference = group.querySelector(".reference img");
    const name = stage.dataset.reference ?? "clean";
    const under = stage.querySelector(".under");
    if (reference) under.src = reference.src;
    const cut = (share) => {
      slider.value = String(share);
      pair.style.setProperty("--cut", `${slider.value}%`);
      slider.setAttribute("aria-valuetext", `${slider.value} % ${name}`);
    };
    const choose = (radio) => {
      // Two pictures: the same edit in two runs, compared with each other.
      const images = radio.parentElement.querySelectorAll("img");
      const image = images[images.length - 1];
      over.src = image.src;
      over.alt = image.alt;
      if (!reference) {
        under.src = images[0].src;
        under.alt = images[0].alt;
      }
      stage.querySelector(".edited").textContent = radio.parentElement.querySelector(".arm").textContent;
    };
    const radios = [...group.querySelectorAll(".thumb input")];
    for (const radio of radios) radio.addEventListener("change", () => choose(radio));
    slider.addEventListener("input", () => cut(slider.value));
    pair.addEventListener("pointermove", (event) => {
      const box = pair.getBoundingClientRect();
      cut(Math.round((100 * (event.clientX - box.left)) / box.width));
    });
    stage.hidden = false;
    cut(50);
    choose(radios.find((radio) => radio.checked) ?? radios[0]); // a reloaded page keeps the reader's choice
  }
  for (const select of document.querySelectorAll("select[data-groups]")) {
    const groups = document.querySelectorAll(`#${CSS.escape(select.dataset.groups)} .compare`);
    const show = () => {
      for (const group of groups) group.hidden = group.dataset.group !== select.value;
    };
    select.addEventListener("change", show);
    show();
  }
})();
