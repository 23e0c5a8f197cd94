"use strict";
(() => {
  document.documentElement.classList.add("js");
  const planes = [...document.querySelectorAll(".plane")];
  const slider = document.getElementById("scrub");
  const label = document.getElementById("scrub-label");
  const cursors = [...document.querySelectorAll("svg .cursor")];

  function show(number) {
    planes.forEach((plane, n) => plane.classList.toggle("current", n === number));
    const plane = planes[number];
    label.textContent = plane.dataset.label;
    slider.setAttribute("aria-valuetext", plane.dataset.label);
    const at = plane.dataset.at === "" ? NaN : Number(plane.dataset.at);
    for (const cursor of cursors) {
      const [left, right] = [Number(cursor.dataset.left), Number(cursor.dataset.right)];
      const x = left + at * (right - left);
      cursor.style.visibility = Number.isFinite(x) ? "visible" : "hidden";
      if (Number.isFinite(x)) { cursor.setAttribute("x1", x); cursor.setAttribute("x2", x); }
    }
  }
  if (slider && planes.length) {
    slider.addEventListener("input", () => show(Number(slider.value)));
    // The arrow keys work anywhere on the page, except where they have another use.
    document.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      const used = event.target.closest && event.target.closest("input, pre, .table, select, textarea");
      if (!step || used || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
      slider.value = Number(slider.value) + step;
      show(Number(slider.value));
      event.preventDefault();
    });
    show(Number(slider.value));
  }

  const button = document.getElementById("blink");
  if (button) {
    const pairs = [...document.querySelectorAll(".blink")];
    const blink = () => {
      const second = pairs[0].classList.contains("second");
      pairs.forEach((pair) => pair.classList.toggle("second", !second));
      button.setAttribute("aria-pressed", String(!second));
      document.querySelectorAll(".which").forEach((text) => { text.textContent = second ? "A" : "B"; });
    };
    button.addEventListener("click", blink);
    document.addEventListener("keydown", (event) => {
      if (event.key === "b" && !event.ctrlKey && !event.metaKey && !event.altKey) blink();
    });
  }
})();
