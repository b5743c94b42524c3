"use strict";
/* Keeps filters, sort order, chapter and the example that is shown in the address: `#chapter?hide-model=a&sort=ipr-0.2.down`.
   What is hidden is named, not what is shown, so that an address also fits a report with more models. */
(() => {
  const boxes = () => [...document.querySelectorAll("#filters input")];
  const sections = [...document.querySelectorAll("main section[id]")];
  const tables = new Map();
  for (const section of sections) {
    section.querySelectorAll(".scroll > table").forEach((table, number) => tables.set(`${section.id}-${number}`, table));
  }
  let chapter = "";

  function parts() {
    const [place, query] = location.hash.slice(1).split("?");
    return { place: decodeURIComponent(place || ""), query: query === undefined ? null : new URLSearchParams(query) };
  }

  function write() {
    const query = new URLSearchParams();
    for (const box of boxes()) if (!box.checked) query.append(`hide-${box.name}`, box.value);
    for (const [name, table] of tables) {
      [...table.tHead.rows[0].cells].forEach((cell, column) => {
        const order = cell.getAttribute("aria-sort");
        if (order) query.append("sort", `${name}.${column}.${order === "ascending" ? "up" : "down"}`);
      });
    }
    for (const [key, value] of Object.entries(window.report.example ? window.report.example() : {})) query.set(key, value);
    const text = query.toString();
    const hash = `#${encodeURIComponent(chapter)}${text ? `?${text}` : ""}`;
    if (hash !== (location.hash || "#")) history.replaceState(null, "", hash);
  }

  function read() {
    const { place, query } = parts();
    if (query) {
      for (const box of boxes()) box.checked = !query.getAll(`hide-${box.name}`).includes(box.value);
      for (const sort of query.getAll("sort")) {
        const [name, column, order] = sort.split(".");
        const table = tables.get(name);
        const header = table && table.tHead.rows[0].cells[Number(column)];
        if (header) window.report.sortBy(header, order === "up");
      }
      window.report.update();
      if (window.report.showExample) window.report.showExample(query);
    }
    const target = document.getElementById(place);
    if (target) {
      chapter = target.id;
      if (query) target.scrollIntoView();
    }
    mark();
    write();
  }

  function mark() {
    for (const link of document.querySelectorAll("nav a")) {
      if (link.getAttribute("href") === `#${chapter}`) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }

  let waiting = false;
  addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    // Not with every frame: browsers limit how often a page may change its address.
    setTimeout(() => {
      waiting = false;
      const passed = sections.filter((section) => section.getBoundingClientRect().top <= 120);
      const now = passed.length ? passed[passed.length - 1].id : "";
      if (now !== chapter) { chapter = now; mark(); write(); }
    }, 200);
  }, { passive: true });
  addEventListener("hashchange", read);
  document.addEventListener("report-changed", write);
  window.report.readAddress = read;
})();
