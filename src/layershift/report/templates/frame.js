"use strict";
(() => {
  const store = JSON.parse(document.getElementById("payload").textContent);
  const root = document.documentElement;
  const touch = matchMedia("(pointer: coarse)").matches;
  const config = { displayModeBar: false, responsive: true, doubleClick: "reset" };
  const shared = {}; // per section: is the vertical scale common to all panels?

  function draw(id) {
    const panel = store.panels[id];
    const chosen = store.chosen[panel.section]; // which may be called "constructor", as every object has one
    const option = panel.choices[Object.hasOwn(panel.choices, chosen) ? chosen : ""];
    const data = panel.data.map((style, i) => ({ ...style, ...option.data[i], x: store.steps[option.data[i].x] }));
    const layout = structuredClone({ ...panel.layout, ...option.layout });
    layout.template = store.template;
    layout.height ??= 270;
    layout.autosize = true;
    if (touch) layout.dragmode = false;
    if (shared[panel.section] === false && option !== panel.choices[""]) {
      layout.yaxis = { ...layout.yaxis, range: undefined, autorange: true, tickvals: undefined, ticktext: undefined };
    }
    return Plotly.react(id, data, layout, config);
  }
  // A plot that the page has no place for, as when names in its data disagree, does not keep the others from being drawn.
  const shown = (id, section) => document.getElementById(id) && (!section || store.panels[id].section === section);
  const drawAll = (section) => Promise.all(Object.keys(store.panels).filter((id) => shown(id, section)).map(draw));

  document.querySelectorAll("select[data-section]").forEach((select) =>
    select.addEventListener("change", () => {
      store.chosen[select.dataset.section] = select.value;
      drawAll(select.dataset.section);
    }));
  document.querySelectorAll("input[data-scale]").forEach((box) =>
    box.addEventListener("change", () => {
      shared[box.dataset.scale] = box.checked;
      drawAll(box.dataset.scale);
    }));

  // Theme: the system's, until the button is used.
  const button = document.getElementById("theme");
  const dark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const label = () => { button.lastElementChild.textContent = dark() ? "Light" : "Dark"; };
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("layershift-theme", root.dataset.theme); } catch (e) { /* not kept, then */ }
    label();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  label();

  // Paper: give the page its printed width, let each plot fill its column, and undo it afterwards.
  const plots = () => [...document.querySelectorAll(".plot")];
  addEventListener("beforeprint", () => {
    root.classList.add("printing");
    plots().forEach((plot) => Plotly.relayout(plot, { width: plot.clientWidth, height: 0.82 * plot.layout.height }));
  });
  addEventListener("afterprint", () => {
    root.classList.remove("printing");
    plots().forEach((plot) => Plotly.relayout(plot, { width: null, height: plot.layout.height / 0.82, autosize: true }));
  });

  // The table of numbers: filter, save.
  const rows = [...document.querySelectorAll("#number-table tbody tr")];
  document.getElementById("filter").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/);
    rows.forEach((row) => { row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word)); });
  });
  document.getElementById("csv").addEventListener("click", () => {
    // All digits of a number; a text that a spreadsheet would take for a formula stays a text.
    const quote = (cell) => cell.dataset.v ?? `"${cell.textContent.replace(/^[=+@-]/, "'$&").replaceAll('"', '""')}"`;
    const text = [...document.querySelectorAll("#number-table tr")].map((row) => [...row.cells].map(quote).join(",")).join("\r\n");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = "layershift-numbers.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });

  drawAll().then(() => { root.dataset.drawn = "true"; });
})();
