// What the page adds where JavaScript runs: choosing rows of figures, other measures in the heat tables, and sorting,
// filtering and opening the rows of the table of everything. The page is complete without it.
"use strict";

const byId = (id) => document.getElementById(id);

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function drawn(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text.trim()), (character) => character.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

// Figures -------------------------------------------------------------------------------------------------------------

for (const choice of document.querySelectorAll(".choose")) {
  const figure = byId("figure-" + choice.dataset.figure);
  choice.hidden = false;
  choice.addEventListener("change", function (event) {
    for (const group of figure.querySelectorAll("[data-row]")) {
      if (group.dataset.row !== event.target.value) continue;
      if (event.target.checked) group.removeAttribute("display");
      else group.setAttribute("display", "none");
    }
  });
}

// State in the address: "#everything&framework=numba&sort=value&descending=1" ------------------------------------------

function readState() {
  return new URLSearchParams(location.hash.startsWith("#everything&") ? location.hash.slice("#everything&".length) : "");
}

function writeState(state) {
  const text = state.toString();
  history.replaceState(null, "", text ? "#everything&" + text : location.pathname);
}

// Heat tables ---------------------------------------------------------------------------------------------------------

function startHeat(data) {
  const tables = Array.from(document.querySelectorAll(".heat"));
  if (!tables.length) return;
  const [chosen, measure, baseline] = ["heat-table", "heat-measure", "heat-baseline"].map(byId);
  const value = (cell) => data.numbers.value[Number(cell.dataset.i)];
  const cells = Array.from(document.querySelectorAll(".heat td[data-i]"));
  for (const cell of cells) cell.dataset.fastest = cell.textContent;

  function text(cell) {
    if (measure.value === "fastest") return cell.dataset.fastest;
    if (measure.value !== "baseline") return data.heat[measure.value][Number(cell.dataset.i)];
    const same = Array.from(cell.closest("tbody").rows).map((row) => row.cells[cell.cellIndex]);
    const other = same.find((each) => each.dataset.i && data.variant[Number(each.dataset.i)] === baseline.value);
    return other ? (value(cell) / value(other)).toPrecision(3) : "–";
  }

  function show() {
    for (const table of tables) table.hidden = table.id !== "heat-" + chosen.value;
    byId("heat-baseline-label").hidden = measure.value !== "baseline";
    for (const cell of cells) if (!cell.closest(".heat").hidden) cell.textContent = text(cell);
  }

  function showRows() {
    const rows = byId("heat-" + chosen.value).querySelectorAll("tbody tr");
    baseline.replaceChildren(...Array.from(rows, (row) => new Option(row.cells[1].textContent)));
    show();
  }

  chosen.addEventListener("input", showRows);
  for (const select of [measure, baseline]) select.addEventListener("input", show);
  byId("heat-controls").hidden = false;
  showRows();
}

// The table of everything ---------------------------------------------------------------------------------------------

function startTable(data) {
  const table = byId("results");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const heads = Array.from(table.tHead.rows[0].cells);
  const names = heads.map((head) => head.textContent);
  const filters = Array.from(document.querySelectorAll("[data-filter]"));
  const search = byId("search");
  let order = { head: "", descending: false };

  function filterRows() {
    const wanted = filters.filter((filter) => filter.value);
    const word = search.value.toLowerCase();
    let count = 0;
    rows.forEach(function (row, i) {
      const matches = wanted.every((filter) => data.filters[filter.dataset.filter][i] === filter.value);
      row.hidden = !(matches && texts[i].includes(word));
      if (row.hidden) close(row);
      count += row.hidden ? 0 : 1;
    });
    byId("count").textContent = count + " of " + rows.length + " rows";
  }

  function sortRows() {
    const column = names.indexOf(order.head);
    if (column < 0) return;
    const numbers = data.numbers[order.head];
    const key = numbers ? (i) => numbers[i] : (i) => rows[i].cells[column].textContent;
    const sign = order.descending ? -1 : 1;
    const positions = rows.map((row, i) => i).sort(function (a, b) {
      const x = key(a), y = key(b);
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (numbers ? x - y : x.localeCompare(y));
    });
    for (const row of rows) close(row);
    body.append(...positions.map((i) => rows[i]));
    heads.forEach((head, i) => {
      if (i === column) head.setAttribute("aria-sort", order.descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  }

  function save() {
    const state = new URLSearchParams();
    for (const filter of filters) if (filter.value) state.set(filter.dataset.filter, filter.value);
    if (search.value) state.set("search", search.value);
    if (order.head) state.set("sort", order.head);
    if (order.descending) state.set("descending", "1");
    writeState(state);
  }

  function restore() {
    const state = readState();
    for (const filter of filters) filter.value = state.get(filter.dataset.filter) || "";
    search.value = state.get("search") || "";
    order = { head: state.get("sort") || "", descending: state.has("descending") };
    sortRows();
    filterRows();
  }

  function close(row) {
    if (row.getAttribute("aria-expanded") !== "true") return;
    row.setAttribute("aria-expanded", "false");
    row.nextElementSibling.remove();
  }

  function toggle(row) {
    if (row.getAttribute("aria-expanded") === "true") return close(row);
    row.setAttribute("aria-expanded", "true");
    const opened = element("div", { class: "opened" });
    row.after(element("tr", { class: "detail" }, element("td", { colspan: String(heads.length) }, opened)));
    opened.append(...details(data, rows.indexOf(row), opened.clientWidth));
  }

  for (const filter of filters) {
    const values = Array.from(new Set(data.filters[filter.dataset.filter])).filter(Boolean);
    filter.append(...values.map((value) => new Option(value, value)));
    if (values.length < 2) filter.parentElement.hidden = true;
  }
  for (const control of [...filters, search]) {
    control.addEventListener("input", function () { filterRows(); save(); });
  }
  heads.forEach(function (head, i) {
    const button = element("button", { type: "button" }, names[i]);
    head.replaceChildren(button);
    button.addEventListener("click", function () {
      order = { head: names[i], descending: order.head === names[i] && !order.descending };
      sortRows();
      save();
    });
  });
  for (const row of rows) {
    row.tabIndex = 0;
    row.setAttribute("aria-expanded", "false");
  }
  body.addEventListener("click", function (event) {
    const row = event.target.closest("tr");
    if (row && !row.classList.contains("detail")) toggle(row);
  });
  body.addEventListener("keydown", function (event) {
    if (event.key === "Enter" && rows.includes(event.target)) toggle(event.target);
  });
  byId("reset").addEventListener("click", function () {
    writeState(new URLSearchParams());
    for (const head of heads) head.removeAttribute("aria-sort");
    body.append(...rows);
    restore();
  });
  addEventListener("hashchange", function () { if (location.hash.startsWith("#everything&")) restore(); });
  byId("controls").hidden = false;
  restore();
  if (location.hash.startsWith("#everything&")) byId("everything").scrollIntoView();
}

function details(data, i, width) {
  const parts = [];
  if (data.reason[i]) parts.push(element("p", { class: "differs" }, data.reason[i]));
  if (data.notes[i]) parts.push(element("p", {}, data.notes[i]));
  if (data.rounds[i].length) {
    parts.push(element("p", { class: "soft" }, "Times of the rounds, relative to their median:"), strip(data.rounds[i], Math.min(640, width)));
  }
  const facts = Object.entries(data.circumstances).filter(([, values]) => values[i] !== null && values[i] !== "");
  const shown = facts.map(([name, values]) => element("div", {}, name + ": " + values[i]));
  parts.push(element("div", { class: "facts" }, ...shown));
  if (data.commands[i]) parts.push(element("p", { class: "soft" }, "Measure it again:"), element("pre", {}, data.commands[i]));
  if (data.source[i] >= 0) parts.push(element("pre", { class: "source" }, data.sources[data.source[i]]));
  return parts;
}

// A mark for each round, from left to right in the order of time, on an axis of its time.
function strip(rounds, width) {
  const height = 90, left = 50, low = Math.min(...rounds), high = Math.max(...rounds, low + 1);
  const y = (value) => 10 + (height - 20) * (high - value) / (high - low);
  const svg = drawn("svg", { width, height, role: "img", "aria-label": "time of each round" });
  for (const value of [low, 1000, high]) {
    if (value < low || value > high) continue;
    svg.append(drawn("line", { x1: left, x2: width, y1: y(value), y2: y(value), stroke: "currentColor", opacity: 0.25 }));
  }
  for (const value of [low, high]) {
    const label = drawn("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end", "font-size": 12, fill: "currentColor" });
    label.textContent = (value / 1000).toFixed(2);
    svg.append(label);
  }
  rounds.forEach(function (value, i) {
    const x = left + 8 + (width - left - 16) * i / Math.max(1, rounds.length - 1);
    svg.append(drawn("circle", { cx: x, cy: y(value), r: 3.5, fill: "currentColor", opacity: 0.6 }));
  });
  return svg;
}

unpacked(byId("data").textContent).then(function (data) {
  startHeat(data);
  startTable(data);
  document.documentElement.dataset.ready = "1";
});
