"use strict";
(() => {
  // The animation: a slider and a button move the hidden choice that the page already knows how to draw.
  const select = document.querySelector('select[data-section="motion"]');
  if (!select) return;
  const slider = document.getElementById("frame");
  const shown = document.getElementById("frame-name");
  const button = document.getElementById("play");
  let timer = null;

  function show(index) {
    slider.value = index;
    select.selectedIndex = index;
    shown.textContent = `iteration ${Number(select.value).toLocaleString("en")}`;
    select.dispatchEvent(new Event("change"));
  }
  function stop() {
    clearInterval(timer);
    timer = null;
    button.textContent = "▶ Play";
  }
  function step() {
    if (Number(slider.value) >= select.options.length - 1) stop();
    else show(Number(slider.value) + 1);
  }
  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  button.addEventListener("click", () => {
    if (timer) return stop();
    if (Number(slider.value) >= select.options.length - 1) show(0);
    timer = setInterval(step, 150);
    button.textContent = "❚❚ Pause";
  });
})();
