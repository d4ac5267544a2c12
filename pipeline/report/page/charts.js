"use strict";
// Charts: specs with the theme's colours put in, drawn again when the theme changes.
(() => {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const places = [...document.querySelectorAll("[data-chart]")];
  const state = {};  // chart: signal: value, kept when it is drawn again
  const drawn = {};

  const variable = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  function coloured(value) {
    if (typeof value === "string") return value.startsWith("@") ? variable(value.slice(1)) : value;
    if (Array.isArray(value)) return value.map(coloured);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) =>
      [key, key === "values" || key === "datasets" ? item : coloured(item)]));
  }

  function config(narrow) {
    const [ink, muted, line] = ["ink", "muted", "line"].map(variable);
    const font = getComputedStyle(document.body).fontFamily;
    return {
      background: "transparent",
      font,
      view: { stroke: null },
      axis: {
        labelColor: muted, titleColor: ink, gridColor: line, domainColor: line, tickColor: line,
        labelFontSize: 12, titleFontSize: 12, titleFontWeight: 500, titlePadding: 10, labelPadding: 5,
      },
      axisY: { labelLimit: narrow ? 120 : 260 },
      legend: { labelColor: ink, titleColor: ink, labelFontSize: 12, columns: narrow ? 2 : 5 },
    };
  }

  async function draw(place) {
    const name = place.dataset.chart;
    const options = {
      // errors only: a choice without values leaves a chart empty, which Vega warns of
      logLevel: 1,
      renderer: "svg", actions: false, defaultStyle: false, config: config(place.clientWidth < 480),
      tooltip: { theme: document.documentElement.dataset.theme, disableDefaultStyle: true },
    };
    drawn[name]?.finalize();
    const result = await vegaEmbed(place, coloured(specs[name]), options);
    drawn[name] = result;
    for (const [signal, value] of Object.entries(state[name] ?? {})) result.view.signal(signal, value);
    await result.view.runAsync();
  }

  function signal(name, key, value) {
    (state[name] ??= {})[key] = value;
    drawn[name]?.view.signal(key, value).runAsync();
  }

  for (const select of document.querySelectorAll("[data-signal]")) {
    // of one chart, or of all in its box
    const own = [...(select.closest("figure") ?? select.closest(".charts")).querySelectorAll("[data-chart]")];
    select.addEventListener("change", () => own.forEach((place) =>
      signal(place.dataset.chart, select.dataset.signal, JSON.parse(select.value))));
  }
  for (const legend of document.querySelectorAll(".legend")) {
    legend.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
      const on = [...legend.querySelectorAll("[aria-pressed=true]")].map((b) => b.dataset.arm);
      for (const place of legend.parentElement.querySelectorAll("[data-chart]")) {
        signal(place.dataset.chart, "shown", on);
      }
    });
  }

  let turn = Promise.resolve();
  const all = () => { turn = turn.then(() => Promise.all(places.map(draw))); };
  document.addEventListener("theme", all);
  all();
  turn.then(() => { document.documentElement.dataset.drawn = places.length; });
})();
