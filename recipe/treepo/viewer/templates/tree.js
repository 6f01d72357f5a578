"use strict";
// The page of a tree: colors, hints, text and credit of a path. All texts are set as textContent.
const { vocabulary, nodes, rows, colors } = JSON.parse(document.getElementById("data").textContent);
const field = (id) => document.getElementById(id);
const picture = field("picture"), tip = field("tip");
const dark = matchMedia("(prefers-color-scheme: dark)");
const STARTS = {
  fallback: "fallback: resumed from a finished path",
  abandoned: "replaces an abandoned path",
  dropped: "replaces a dropped path",
};
const TINTS = [-0.1, -0.5, -1, -2, -4];

const digits = (value) => (value === null ? "–" : String(Number(value.toFixed(4))).replace("-", "−"));
const plural = (count, word, many) => count + " " + (count === 1 ? word : many || word + "s");

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function pathTo(end) {
  const path = [];
  for (let node = end; node > 0; node = nodes[node].parent) path.unshift(node);
  return path;
}

// --- colors ---------------------------------------------------------------------------------------------------------

function paint() {
  const name = document.querySelector("[name=color]:checked").value;
  const theme = dark.matches ? "dark" : "light";
  const { fills, inks } = colors[name][theme];
  for (const group of picture.querySelectorAll("[data-node]")) {
    const node = Number(group.dataset.node);
    const ink = inks[node] === "k" ? "#000000" : "#ffffff";
    group.querySelector("rect").setAttribute("fill", fills[node]);
    for (const mark of group.querySelectorAll("text, polygon")) mark.setAttribute("fill", ink);
  }
  for (const legend of picture.querySelectorAll("[data-legend]")) {
    legend.hidden = legend.dataset.legend !== name + " " + theme;
  }
  for (const link of document.querySelectorAll("#before, #after")) link.hash = name;
}

// --- hints ----------------------------------------------------------------------------------------------------------

function hint(number) {
  const node = nodes[number];
  const mean = "mean reward " + digits(node.mean);
  if (number === 0) return ["prompt", plural(node.size, "trajectory", "trajectories"), mean];
  const lines = [node.key, plural(node.tokens, "token") + ", segment " + node.depth];
  if (node.start) lines.push(STARTS[node.start]);
  if (node.reply) lines.push("reply of a tool or user, not trained");
  if (node.split) lines.push("split inside its segment");
  lines.push(mean + " of " + node.size);
  lines.push("mean advantage " + digits(node.advantage));
  lines.push("mean log-prob " + digits(node.logprob));
  if (node.score !== null) lines.push("score " + digits(node.score));
  if (node.versions.some((version) => version !== null)) lines.push("policy version " + node.versions.join(" to "));
  if (node.seconds !== null) {
    const cached = node.cached === null ? "" : ", " + plural(node.cached, "cached token");
    lines.push("request " + node.seconds.toFixed(2) + " s" + cached);
  }
  return lines;
}

function point(event) {
  const group = event.target.closest("[data-node]");
  tip.hidden = !group;
  if (!group) return;
  tip.replaceChildren(...hint(Number(group.dataset.node)).map((line) => element("div", line)));
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = Math.max(0, Math.min(event.clientX + 14, innerWidth - width - 8)) + "px";
  tip.style.top = (event.clientY + height + 22 > innerHeight ? event.clientY - height - 8 : event.clientY + 14) + "px";
}

// --- text of a path -------------------------------------------------------------------------------------------------

function tint(logprob) {
  const level = logprob === null ? 0 : TINTS.findIndex((limit) => logprob > limit);
  return "t" + (level < 0 ? TINTS.length : level);
}

function textOf(node) {
  if (!node.pieces) return [element("span", node.text)];
  if (!node.logprobs.length) return [element("span", node.pieces.map((piece) => vocabulary[piece]).join(""))];
  return node.pieces.map((piece, place) => {
    const token = element("span", vocabulary[piece], tint(node.logprobs[place]));
    token.title = "log-prob " + digits(node.logprobs[place]);
    return token;
  });
}

function segment(number) {
  const node = nodes[number];
  const words = [node.key, plural(node.tokens, "token")];
  if (node.start) words.push(STARTS[node.start]);
  if (node.split) words.push("split inside the segment");
  const text = element("div", undefined, "text");
  text.append(...textOf(node));
  if (!node.reply) {
    const part = element("div", undefined, "segment");
    part.dataset.segment = number;
    part.append(element("div", words.join(" · "), "mark"), text);
    return part;
  }
  const part = element("details", undefined, "segment");
  part.dataset.segment = number;
  part.append(element("summary", "reply, not trained · " + words.join(" · "), "mark"), text);
  if (node.messages) part.append(element("pre", node.messages));
  return part;
}

function column(heading, path) {
  const made = element("div", undefined, "column");
  made.append(element("h3", heading), ...path.map(segment));
  if (!path.length) made.append(element("p", "(ends here)", "faint-text"));
  return made;
}

function showText(row, other) {
  const path = pathTo(rows[row].node);
  if (other === null) {
    field("text").replaceChildren(...path.map(segment));
    return;
  }
  const second = pathTo(rows[other].node);
  let fork = 0;
  while (fork < path.length && path[fork] === second[fork]) fork++;
  const shared = path.slice(0, fork);
  const tokens = shared.reduce((sum, node) => sum + nodes[node].tokens, 0);
  const above = element("details", undefined, "shared");
  above.append(element("summary", "shared before the fork: " + plural(tokens, "token")), ...shared.map(segment));
  const columns = element("div", undefined, "columns");
  columns.append(column(label(row), path.slice(fork)), column(label(other), second.slice(fork)));
  field("text").replaceChildren(above, columns);
}

// --- credit ---------------------------------------------------------------------------------------------------------

function showCredit(row) {
  const { node: end, reward, advantages, words, tokens, parts } = rows[row];
  field("outcome").textContent = words + ", " + plural(tokens, "token");
  field("parts").hidden = parts === null;
  field("parts").querySelector("pre").textContent = parts || "";
  const lines = [0, ...pathTo(end)].map((number) => {
    const node = nodes[number];
    const recorded = advantages && number in advantages ? advantages[number] : null;
    const difference = reward === null || node.mean === null ? null : reward - node.mean;
    const values = [node.mean, node.deviation, difference, recorded, node.logprob].map(digits);
    const counts = number === 0 ? ["", "", node.size] : [node.depth, node.tokens, node.size];
    const line = element("tr");
    line.append(element("td", number === 0 ? "prompt" : node.key));
    line.append(...[...counts, ...values].map((text) => element("td", text, "number")));
    return line;
  });
  document.querySelector("#credit tbody").replaceChildren(...lines);
}

// --- choice of paths ------------------------------------------------------------------------------------------------

function label(row) {
  const { right, words } = rows[row];
  return row + 1 + (right === null ? "" : right ? " ✓" : " ✗") + " " + words;
}

function show() {
  const row = Number(field("first").value);
  const second = field("second").value;
  const other = second === "" || Number(second) === row ? null : Number(second);
  const chosen = new Set(pathTo(rows[row].node));
  const compared = other === null ? new Set() : new Set(pathTo(rows[other].node));
  for (const group of picture.querySelectorAll("[data-node]")) {
    const node = Number(group.dataset.node);
    group.classList.toggle("chosen", chosen.has(node));
    group.classList.toggle("compared", compared.has(node) && !chosen.has(node));
  }
  showCredit(row);
  showText(row, other);
}

function choose(event) {
  const group = event.target.closest("[data-node]");
  if (!group) return;
  const { row, rows: count } = nodes[Number(group.dataset.node)];
  const { top, height } = group.querySelector("rect").getBoundingClientRect();
  const within = Math.floor(((event.clientY - top) / Math.max(height, 1)) * count);
  field(event.shiftKey ? "second" : "first").value = row + Math.max(0, Math.min(count - 1, within));
  show();
}

function press(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.tagName === "SELECT") return;
  const link = { j: field("after"), k: field("before") }[event.key];
  if (link) location.assign(link.href);
}

for (const select of [field("first"), field("second")]) {
  rows.forEach((_, row) => select.append(new Option(label(row), row)));
  select.addEventListener("change", show);
}
const wanted = document.querySelector('[name=color][value="' + CSS.escape(location.hash.slice(1)) + '"]');
if (wanted) wanted.checked = true;
field("colors").addEventListener("change", paint);
dark.addEventListener("change", paint);
picture.addEventListener("mousemove", point);
picture.addEventListener("mouseleave", () => (tip.hidden = true));
picture.addEventListener("click", choose);
document.addEventListener("keydown", press);
paint();
show();
