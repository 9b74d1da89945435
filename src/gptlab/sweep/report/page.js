"use strict";

// Numbers before texts; what has no value comes last, whichever way the others are sorted.
function compare(one, other, turned) {
  const [a, b] = [one, other].map(row => row.dataset.key);
  if (a === "" || b === "") return (a === "") - (b === "");
  const [x, y] = [Number(a), Number(b)];
  const order = isNaN(x) && isNaN(y) ? a.localeCompare(b) : isNaN(x) - isNaN(y) || x - y;
  return turned ? -order : order;
}

function sortBy(head) {
  const turned = head.getAttribute("aria-sort") === "ascending";
  const body = head.closest("table").tBodies[0], column = head.cellIndex;
  const rows = [...body.rows].sort((one, other) => compare(one.cells[column], other.cells[column], turned));
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", turned ? "descending" : "ascending");
  body.append(...rows);
}

for (const head of document.querySelectorAll("th")) {
  head.firstElementChild.addEventListener("click", () => sortBy(head));
}
