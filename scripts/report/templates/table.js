// Sorts and filters the table of results. The page is complete without it.
"use strict";
const table = document.getElementById("results");
const body = table.tBodies[0];
const rows = Array.from(body.rows);
const shown = document.getElementById("shown");
const filters = Array.from(document.querySelectorAll("[data-filter]"));

function matches(row) {
  return filters.every(function (filter) {
    if (!filter.value) return true;
    if (filter.dataset.filter === "text") return row.textContent.toLowerCase().includes(filter.value.toLowerCase());
    return row.dataset[filter.dataset.filter] === filter.value;
  });
}

function filterRows() {
  let count = 0;
  for (const row of rows) {
    row.hidden = !matches(row);
    count += row.hidden ? 0 : 1;
  }
  shown.textContent = count + " of " + rows.length + " rows";
}

function sortBy(column, descending) {
  const key = function (row) {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value || "NaN");
  };
  const sign = descending ? -1 : 1;
  const compare = function (a, b) {
    const x = key(a), y = key(b);
    if (typeof x === "string") return sign * x.localeCompare(y);
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
    return sign * (x - y);
  };
  body.append(...rows.sort(compare));
}

Array.from(table.tHead.rows[0].cells).forEach(function (head, column) {
  const button = document.createElement("button");
  button.textContent = head.textContent;
  head.replaceChildren(button);
  button.addEventListener("click", function () {
    const descending = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    sortBy(column, descending);
  });
});
for (const filter of filters) {
  if (filter.tagName === "SELECT") {
    const values = Array.from(new Set(rows.map((row) => row.dataset[filter.dataset.filter])));
    for (const value of values) filter.append(new Option(value, value));
  }
  filter.addEventListener("input", filterRows);
}
document.getElementById("controls").hidden = false;
filterRows();
