"use strict";
// Controls are made here, so that a page without scripts has none that do nothing.
const value = (row, column) => {
  const cell = row.cells[column];
  const number = cell.dataset.value;
  if (number === undefined) return cell.textContent.trim();
  return { inf: Infinity, "-inf": -Infinity, nan: "" }[number] ?? Number(number);
};
const order = new Intl.Collator(undefined, { numeric: true });
const compare = (a, b) => (typeof a === "number" ? (a < b ? -1 : a > b ? 1 : 0) : order.compare(a, b));
const sort = (table, column, header) => {
  const down = header.getAttribute("aria-sort") === "ascending";
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [value(row, column), row]);
  const numbers = rows.filter(([key]) => typeof key === "number").sort(([a], [b]) => compare(a, b));
  const words = rows.filter(([key]) => typeof key !== "number").sort(([a], [b]) => compare(a, b));
  if (down) for (const part of [numbers, words]) part.reverse();
  // What has no number stays below what has one, whichever way they are sorted.
  body.append(...[...numbers, ...words].map(([, row]) => row));
};
// A number is saved in full. A cell that begins with a formula's sign would be run by a spreadsheet.
const quoted = (cell) => {
  const text = (cell.dataset.value ?? cell.textContent).trim();
  const safe = /^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
  return `"${safe.replaceAll('"', '""')}"`;
};
const save = (table) => {
  const rows = [...table.rows].filter((row) => !row.hidden);
  const lines = rows.map((row) => [...row.cells].map(quoted).join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([`${lines.join("\r\n")}\r\n`], { type: "text/csv" }));
  link.download = `${table.dataset.name}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};
const filter = (table, text, said) => {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let left = 0;
  for (const row of table.tBodies[0].rows) {
    const content = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => content.includes(word));
    if (!row.hidden) left += 1;
  }
  said.textContent = `${left} of ${table.tBodies[0].rows.length} rows`;
};
for (const table of document.querySelectorAll("table[data-name]")) {
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(table, column, header));
    header.append(button);
  });
  const tools = document.createElement("div");
  tools.className = "tools";
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Save as CSV";
  button.addEventListener("click", () => save(table));
  if (table.tBodies[0].rows.length > 8) {
    const box = document.createElement("input");
    box.type = "search";
    box.placeholder = "Filter rows";
    box.setAttribute("aria-label", `Filter rows of: ${table.caption.textContent}`);
    const said = document.createElement("span");
    said.className = "note";
    said.setAttribute("role", "status");
    box.addEventListener("input", () => filter(table, box.value, said));
    tools.append(box, said);
  }
  tools.prepend(button);
  table.closest(".scroll").before(tools);
}
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details.tables:not([open])")];
  for (const details of opened) details.open = true;
});
addEventListener("afterprint", () => { for (const details of opened) details.open = false; });
