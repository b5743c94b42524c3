"use strict";
/* The browser of single examples. A task is unpacked when it is first shown. */
(() => {
  const form = document.getElementById("browser");
  const packed = new Map([...document.querySelectorAll("script[data-examples]")].map((node) => [node.dataset.examples, node]));
  const ready = Promise.resolve();
  if (!form) { window.report.examplesReady = () => ready; window.report.readAddress(); return; }
  const field = (name) => form.elements.namedItem(name);
  const place = document.getElementById("example");
  const count = document.getElementById("example-count");
  const PERCENT_PLACES = 0;
  let data = null;
  let matches = [];
  let at = 0;
  let busy = ready;

  async function unpack(task) {
    const bytes = Uint8Array.from(atob(packed.get(task).textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const whole = new Uint8Array(await new Response(stream).arrayBuffer());
    const length = new DataView(whole.buffer).getUint32(0, true);
    const found = JSON.parse(new TextDecoder().decode(whole.subarray(4, 4 + length)));
    found.answers = whole.subarray(4 + length);
    found.row = found.model.length * found.paradigm.length * found.size.length * found.seed.length;
    return found;
  }

  /* The answer of one trial: its class and the probability of it, or null. */
  function answer(example, model, paradigm, size, seed) {
    const index = ((model * data.paradigm.length + paradigm) * data.size.length + size) * data.seed.length + seed;
    const code = data.answers[example * data.row + index];
    if (!code) return null;
    const level = (code - 1) % data.levels;
    return { label: Math.floor((code - 1) / data.levels), sure: level ? (level - 1) / (data.levels - 2) : null };
  }

  /* How many seeds of a paradigm are right, and how many there are, at the size chosen. */
  function tally(example, paradigm) {
    const model = data.model.indexOf(field("model").value);
    const size = data.size.indexOf(Number(field("size").value));
    const given = data.seed.map((_, seed) => answer(example, model, paradigm, size, seed)).filter(Boolean);
    return { right: given.filter((one) => one.label === data.gold[example]).length, all: given.length };
  }

  function passes(example, which) {
    const tallies = data.paradigm.map((_, paradigm) => tally(example, paradigm)).map((one, i) => ({ ...one, name: data.paradigm[i] }));
    const state = (name) => {
      const one = tallies.find((each) => each.name === name);
      return one && one.all ? (2 * one.right > one.all ? "right" : "wrong") : "none";
    };
    if (which === "gained") return state("instructed") === "right" && state("prompted") === "wrong";
    if (which === "lost") return state("prompted") === "right" && state("instructed") === "wrong";
    if (which === "wrong") return tallies.some((one) => one.all) && tallies.every((one) => 2 * one.right <= one.all);
    if (which === "split") return tallies.some((one) => one.right > 0 && one.right < one.all);
    return true;
  }

  function element(name, text, kind) {
    const node = document.createElement(name);
    if (text !== undefined) node.textContent = text;
    if (kind) node.className = kind;
    return node;
  }

  function seedText(example, model, paradigm, size, seed) {
    const one = answer(example, model, paradigm, size, seed);
    if (!one) return element("span", "–");
    const right = one.label === data.gold[example];
    const sure = one.sure === null ? "" : ` ${(100 * one.sure).toFixed(PERCENT_PLACES)}%`;
    const node = element("span", `${right ? "✓" : "✗"} ${data.labels[one.label] ?? one.label}${sure}`, right ? "right" : "wrong");
    node.title = `seed ${data.seed[seed]}: ${right ? "right" : "wrong"}`;
    return node;
  }

  function show() {
    place.replaceChildren();
    const shown = data.ids.length === data.total ? "" : ` The page holds ${data.ids.length} of the task's ${data.total} examples, those`
      + " on which prompted and instructed trials differ most.";
    if (!matches.length) { count.textContent = `No example of ${data.ids.length}.${shown}`; return; }
    at = Math.min(Math.max(at, 0), matches.length - 1);
    const example = matches[at];
    const { model: models, paradigm: paradigms } = window.report.selected();
    count.textContent = `Example ${at + 1} of ${matches.length}: id ${data.ids[example]}.${shown}`;
    const texts = element("dl");
    const add = (name, value) => texts.append(element("dt", name), element("dd", value));
    data.fields.forEach((name, i) => add(name, data.texts[example][i]));
    add("right answer", data.labels[data.gold[example]] ?? String(data.gold[example]));
    const table = element("table");
    table.append(element("caption", "Answers of every seed, by training size", "unseen"));
    const head = table.createTHead().insertRow();
    const header = (text, scope) => { const cell = element("th", text); cell.scope = scope; return cell; };
    head.append(header("training size", "col"));
    const columns = data.paradigm.map((name, i) => [name, i]).filter(([name]) => !paradigms || paradigms.has(name));
    for (const [name] of columns) head.append(header(name, "col"));
    const body = table.createTBody();
    const model = data.model.indexOf(field("model").value);
    data.size.forEach((value, size) => {
      const row = body.insertRow();
      row.append(header(String(value), "row"));
      for (const [, paradigm] of columns) {
        row.insertCell().append(...data.seed.map((_, seed) => seedText(example, model, paradigm, size, seed)));
      }
    });
    const scroll = element("div", undefined, "scroll");
    scroll.tabIndex = 0;
    scroll.append(table);
    place.append(texts, scroll);
  }

  function select(keep) {
    const text = field("text").value.toLowerCase();
    const which = field("which").value;
    const holds = (i) => !text || data.ids[i] === text || (data.texts[i] || []).some((one) => one.toLowerCase().includes(text));
    matches = data.ids.map((_, i) => i).filter((i) => passes(i, which) && holds(i));
    at = keep === undefined ? 0 : Math.max(0, matches.findIndex((i) => data.ids[i] === keep));
    show();
  }

  function options(name, values, chosen) {
    field(name).replaceChildren(...values.map((value) => new Option(value, value, false, String(value) === String(chosen))));
  }

  async function load(task, wanted = {}) {
    if (typeof DecompressionStream === "undefined") { count.textContent = "This browser is too old to show examples."; return; }
    data = await unpack(task);
    const [model, size] = [wanted.model ?? field("model").value, wanted.size ?? field("size").value];
    options("model", data.model, data.model.includes(model) ? model : data.model[0]);
    options("size", data.size, data.size.map(String).includes(String(size)) ? size : data.size[data.size.length - 1]);
    select(wanted.id);
  }

  const said = () => document.dispatchEvent(new CustomEvent("report-changed"));
  const run = (work) => { busy = busy.then(work).then(said); return busy; };
  options("task", [...packed.keys()]);
  form.addEventListener("submit", (event) => event.preventDefault());
  field("task").addEventListener("change", () => run(() => load(field("task").value)));
  for (const name of ["model", "size", "which"]) field(name).addEventListener("change", () => run(() => select()));
  field("text").addEventListener("input", () => run(() => select()));
  const step = (by) => run(() => {
    if (!matches.length) return;
    at = (at + by + matches.length) % matches.length;
    show();
  });
  field("previous").addEventListener("click", () => step(-1));
  field("next").addEventListener("click", () => step(1));
  document.getElementById("filters").addEventListener("change", () => data && show());
  document.getElementById("filters").addEventListener("reset", () => setTimeout(() => data && show(), 0));

  let touched = false;
  form.addEventListener("change", () => { touched = true; });
  form.addEventListener("click", () => { touched = true; });
  window.report.example = () => (touched && data && matches.length
    ? { task: data.task, model: field("model").value, size: field("size").value, which: field("which").value, example: data.ids[matches[at]] }
    : {});
  window.report.showExample = (query) => {
    const task = query.get("task");
    if (!packed.has(task)) return;
    touched = true;
    field("task").value = task;
    if (query.get("which")) field("which").value = query.get("which");
    run(() => load(task, { model: query.get("model"), size: query.get("size"), id: query.get("example") ?? undefined }));
  };
  window.report.examplesReady = () => busy;
  // The first task is unpacked when the chapter comes near.
  new IntersectionObserver((entries, watcher) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watcher.disconnect();
    if (!data && packed.size) run(() => data || load(field("task").value));
  }, { rootMargin: "600px" }).observe(form);
  window.report.readAddress();
})();
