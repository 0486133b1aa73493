"use strict";
// Each heading of a sortable table gets a button: ascending, descending, then the order of the plan again.
// What is unknown stays last either way. Rows that are folded away below a table are sorted with it.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const below = table.parentElement.nextElementSibling;
  const rest = below && below.matches("details") ? below.querySelector("tbody") : null;
  const planned = [...body.rows, ...(rest ? rest.rows : [])];
  const shown = body.rows.length;
  const headings = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const cell = row.cells[column];
    if (!headings[column].classList.contains("number")) return cell.textContent;
    return "order" in cell.dataset ? Number(cell.dataset.order) : NaN;
  };
  const compare = (a, b, sign) => {
    if (typeof a === "string") return sign * a.localeCompare(b, "en", { numeric: true });
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return sign * (a - b);
  };
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: null }[heading.getAttribute("aria-sort")];
      const order = next === undefined ? "ascending" : next;
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      const sign = order === "descending" ? -1 : 1;
      const sorted = planned.slice();
      if (order) {
        heading.setAttribute("aria-sort", order);
        sorted.sort((a, b) => compare(key(a, column), key(b, column), sign));
      }
      body.append(...sorted.slice(0, shown));
      if (rest) rest.append(...sorted.slice(shown));
    });
  });
}
