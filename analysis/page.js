"use strict";
/* Draws the figures when they come into view, and keeps figures and tables in step with the filters, theme and width. */
(() => {
  const KEYS = ["model", "task", "paradigm"];
  const GAP_X = 0.035;
  const GAP_Y_PX = 92;
  const PANEL_PX = 250;
  const MIN_PANEL_PX = 230;
  const NARROW_PX = 560;
  const CONFIG = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };

  const specs = new Map();
  for (const holder of document.querySelectorAll("script[data-figure]")) {
    specs.set(holder.dataset.figure, JSON.parse(holder.textContent));
  }

  function selected() {
    const chosen = {};
    for (const key of KEYS) {
      const boxes = [...document.querySelectorAll(`#filters input[name="${key}"]`)];
      chosen[key] = boxes.length ? new Set(boxes.filter((box) => box.checked).map((box) => box.value)) : null;
      // Names outside the filter, such as the pooled row, always stay.
      const known = new Set(boxes.map((box) => box.value));
      chosen[`${key}Known`] = known;
    }
    return chosen;
  }

  function passes(chosen, labels) {
    const both = labels && labels.paradigms ? labels.paradigms.split(" ") : [];
    if (!both.every((name) => passes(chosen, { paradigm: name }))) return false;
    return KEYS.every((key) => {
      const value = labels ? labels[key] : undefined;
      return value === undefined || !chosen[`${key}Known`].has(value) || chosen[key].has(value);
    });
  }

  function css(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  /* Lays out the panels that the filters leave, in as many columns as the width has room for. */
  function panelLayout(layout, chosen, width) {
    const meta = layout.meta || {};
    if (!meta.panels) return {};
    const visible = meta.panels.filter((panel) => passes(chosen, { [panel.key]: panel.name }));
    const room = width - layout.margin.l - layout.margin.r;
    const columns = Math.max(1, Math.min(4, visible.length, Math.floor(room / MIN_PANEL_PX)));
    const rows = Math.max(1, Math.ceil(visible.length / columns));
    const inner = PANEL_PX * rows + GAP_Y_PX * (rows - 1);
    const change = { height: inner + layout.margin.t + layout.margin.b };
    meta.panels.forEach((panel) => {
      change[`${panel.x}.visible`] = change[`${panel.y}.visible`] = false;
      change[`annotations[${panel.annotation}].visible`] = false;
    });
    visible.forEach((panel, index) => {
      const row = Math.floor(index / columns);
      const column = index % columns;
      const step = (1 + GAP_X) / columns;
      const top = 1 - (row * (PANEL_PX + GAP_Y_PX)) / inner;
      const left = column * step;
      change[`${panel.x}.domain`] = [left, left + step - GAP_X];
      change[`${panel.y}.domain`] = [Math.max(0, top - PANEL_PX / inner), top];
      change[`${panel.x}.visible`] = change[`${panel.y}.visible`] = true;
      change[`${panel.y}.showticklabels`] = column === 0 || !meta.y_labels_once;
      change[`${panel.y}.title.text`] = column === 0 ? meta.y_title : "";
      change[`annotations[${panel.annotation}].visible`] = true;
      change[`annotations[${panel.annotation}].x`] = left + (step - GAP_X) / 2;
      change[`annotations[${panel.annotation}].y`] = top;
    });
    return change;
  }

  function apply(target, changes) {
    for (const [path, value] of Object.entries(changes)) {
      const steps = path.replace(/\[(\d+)\]/g, ".$1").split(".");
      const last = steps.pop();
      const place = steps.reduce((node, step) => (node[step] = node[step] || {}), target);
      place[last] = value;
    }
  }

  let plotly = null;

  /* Runs the drawing library, once, when the first figure needs it or the browser has nothing else to do. */
  function loadPlotly() {
    if (!plotly) {
      const script = document.createElement("script");
      script.textContent = document.getElementById("plotly").textContent;
      document.head.append(script);
      plotly = Promise.resolve(window.Plotly);
    }
    return plotly;
  }

  /* Brings one figure up to date: which traces show, where panels are, which colours text has. */
  function draw(div) {
    const spec = specs.get(div.dataset.name);
    const chosen = selected();
    const layout = spec.layout;
    layout.font = { ...layout.font, color: css("--text") };
    layout.hoverlabel = { ...layout.hoverlabel, bgcolor: css("--panel"), font: { color: css("--text") } };
    const legends = new Set();
    for (const trace of spec.data) {
      trace.visible = passes(chosen, trace.meta);
      if (trace.legendgroup && trace.name) {
        trace.showlegend = trace.visible && !legends.has(trace.legendgroup);
        if (trace.visible) legends.add(trace.legendgroup);
      }
    }
    apply(layout, panelLayout(layout, chosen, div.clientWidth));
    if (layout.meta && layout.meta.columns) {
      // Squares side by side must not cover each other, or a missing one is not seen; axis names take about 130 pixels.
      const room = (div.clientWidth - 130) / layout.meta.columns;
      for (const trace of spec.data) trace.marker.size = Math.max(3, Math.min(13, Math.floor(room) - 1));
    }
    // On a phone the buttons would lie on the legend, and fingers zoom without them.
    const config = { ...CONFIG, displayModeBar: div.clientWidth >= NARROW_PX && "hover" };
    div.style.height = `${layout.height}px`;
    return loadPlotly().then((Plotly) => Plotly.react(div, spec.data, layout, config)).then(() => {
      div.dataset.drawn = "yes";
      performance.mark(`drawn ${div.dataset.name}`);
    });
  }

  let pending = Promise.resolve();

  function update() {
    const chosen = selected();
    for (const node of document.querySelectorAll("main :is([data-model], [data-task], [data-paradigm], [data-paradigms])")) {
      node.classList.toggle("filtered", !passes(chosen, node.dataset));
    }
    const drawn = [...document.querySelectorAll(".figure[data-drawn]")];
    pending = Promise.all(drawn.filter((div) => div.clientWidth > 0).map(draw));
    const counts = KEYS.filter((key) => chosen[`${key}Known`].size)
      .map((key) => `${chosen[key].size} of ${chosen[`${key}Known`].size} ${key}s`);
    document.getElementById("status").textContent = `Shown: ${counts.join(", ")}`;
  }

  function sortBy(header, up) {
    const table = header.closest("table");
    const column = [...header.parentNode.children].indexOf(header);
    for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0];
    const key = (row) => row.children[column].textContent;
    const compare = (a, b) => {
      const [x, y] = [parseFloat(key(a).replace("−", "-")), parseFloat(key(b).replace("−", "-"))];
      const order = Number.isNaN(x) || Number.isNaN(y) ? key(a).localeCompare(key(b)) : x - y;
      return up ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
  }

  const root = document.documentElement;
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches;
    root.dataset.theme = dark ? "light" : "dark";
    update();
  });
  prefersDark.addEventListener("change", update);

  const form = document.getElementById("filters");
  const changed = () => {
    update();
    document.dispatchEvent(new CustomEvent("report-changed"));
  };
  form.addEventListener("change", changed);
  form.addEventListener("reset", () => setTimeout(changed, 0));
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const header of document.querySelectorAll("section .scroll > table th")) {
    header.addEventListener("click", () => {
      sortBy(header, header.getAttribute("aria-sort") !== "ascending");
      document.dispatchEvent(new CustomEvent("report-changed"));
    });
  }
  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const text = button.nextElementSibling;
      getSelection().selectAllChildren(text);
      // Pages that are files may not write to the clipboard by themselves in every browser; what is selected can be copied.
      try { await navigator.clipboard.writeText(text.textContent); button.textContent = "copied"; }
      catch { button.textContent = "selected"; }
    });
  }

  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    update();
  });

  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting && entry.target.clientWidth > 0) {
        watcher.unobserve(entry.target);
        draw(entry.target);
      }
    }
  }, { rootMargin: "300px" });
  for (const div of document.querySelectorAll(".figure")) watcher.observe(div);
  // For tests and measurements: draw everything now, and wait until the figures have followed the last change.
  window.report = {
    draw: () => Promise.all([...document.querySelectorAll(".figure")].filter((div) => div.clientWidth > 0).map(draw)),
    settled: () => pending,
    update,
    sortBy,
    selected,
  };
  (window.requestIdleCallback || window.setTimeout)(loadPlotly);
  root.dataset.ready = "yes";
  performance.mark("ready");
})();
