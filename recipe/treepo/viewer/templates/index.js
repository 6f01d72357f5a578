"use strict";
// The table of trees. All texts are set as textContent.
const trees = JSON.parse(document.getElementById("data").textContent);
const PAGE = 300;
const field = (id) => document.getElementById(id);
let sortBy = null, descending = false, most = PAGE;

const number = (value, digits) => (value === null ? "" : digits === undefined ? String(value) : value.toFixed(digits));
const COLUMNS = {
  step: (tree) => number(tree.step),
  split: (tree) => tree.split,
  number: (tree) => number(tree.number),
  prompt: (tree) => tree.prompt,
  reward: (tree) => number(tree.reward, 3),
  mixed: (tree) => (tree.mixed ? "mixed" : ""),
  sharing: (tree) => (tree.sharing === null ? "" : tree.sharing.toFixed(2) + "x"),
  depth: (tree) => number(tree.depth),
  fallbacks: (tree) => number(tree.fallbacks),
  failures: (tree) => number(tree.failures),
};
const TEXTS = new Set(["split", "prompt", "mixed"]);

function matches(tree) {
  const words = field("search").value.toLowerCase();
  const text = [tree.prompt, tree.uid, tree.source].join("\n").toLowerCase();
  return (
    text.includes(words) &&
    (!field("split").value || tree.split === field("split").value) &&
    (!field("mixed").checked || tree.mixed) &&
    (!field("fallbacks").checked || tree.fallbacks > 0) &&
    (!field("failures").checked || tree.failures > 0)
  );
}

function compare(first, second) {
  const a = first[sortBy], b = second[sortBy];
  if (a === b) return 0;
  if (a === null || b === null) return a === null ? 1 : -1; // unknown values come last in both directions
  return (a < b ? -1 : 1) * (descending ? -1 : 1);
}

function row(tree) {
  const line = document.createElement("tr");
  for (const [name, text] of Object.entries(COLUMNS)) {
    const cell = line.insertCell();
    cell.className = TEXTS.has(name) ? name : "number";
    if (name === "prompt") {
      const link = document.createElement("a");
      link.href = tree.page;
      link.textContent = text(tree) || "(empty prompt)";
      link.title = tree.source + ", " + tree.uid;
      cell.append(link);
    } else {
      cell.textContent = text(tree);
    }
  }
  return line;
}

function show() {
  const found = trees.filter(matches);
  if (sortBy) found.sort(compare);
  document.querySelector("#trees tbody").replaceChildren(...found.slice(0, most).map(row));
  field("count").textContent = found.length + " of " + trees.length;
  field("more").hidden = found.length <= most;
}

for (const split of new Set(trees.map((tree) => tree.split))) {
  field("split").append(new Option(split, split));
}
for (const button of document.querySelectorAll("[data-sort]")) {
  button.addEventListener("click", () => {
    const name = button.dataset.sort;
    descending = sortBy === name ? !descending : !TEXTS.has(name) && name !== "step" && name !== "number";
    sortBy = name;
    for (const head of document.querySelectorAll("th")) head.removeAttribute("aria-sort");
    button.parentElement.setAttribute("aria-sort", descending ? "descending" : "ascending");
    show();
  });
}
field("filters").addEventListener("input", () => {
  most = PAGE;
  show();
});
field("filters").addEventListener("submit", (event) => event.preventDefault());
field("more").addEventListener("click", () => {
  most += PAGE;
  show();
});
show();
