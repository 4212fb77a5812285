"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const list = at("list"), detail = at("detail"), two = data.names.length > 1;
const WORDS = { pass: "right", fail: "wrong", none: "no answer", "": "not graded" };
const WINDOW = 400; // rows of the list that are drawn at once
let shown = [], current = null, drawn = 0;

function make(name, text, className) {
  const node = document.createElement(name);
  if (text !== undefined && text !== null) node.textContent = text;
  if (className) node.className = className;
  return node;
}
const stateOf = (row) => (row.replies[0] ? row.replies[0].state : "PENDING");
const flipped = (row) => two && row.replies[0] && row.replies[1] && row.replies[0].passed !== row.replies[1].passed;
const nameOf = (row) => row.source + "/" + row.id + (row.repeat > 1 ? " #" + row.repeat : "");

function fill(select, values) {
  for (const value of values) {
    const option = make("option", value.toLowerCase() === value ? value : value.replace("_", " "));
    option.value = value;
    select.append(option);
  }
}
fill(at("state"), [...new Set(data.rows.map(stateOf))]);
fill(at("source"), [...new Set(data.rows.map((row) => row.source))]);
at("flipbox").hidden = !two;

function textOf(row) {
  if (row.search === undefined) {
    const parts = [nameOf(row), row.title, row.domain, row.text, ...row.choices];
    for (const reply of row.replies)
      if (reply) for (const [text] of [...reply.thinking, ...reply.answer]) parts.push(text);
    row.search = parts.join("\n").toLowerCase();
  }
  return row.search;
}

function filter() {
  const state = at("state").value, source = at("source").value, words = at("words").value.toLowerCase();
  shown = data.rows.filter((row) => (!state || stateOf(row) === state) && (!source || row.source === source)
    && (!at("flips").checked || flipped(row)) && (!words || textOf(row).includes(words)));
  at("count").textContent = shown.length + " of " + data.rows.length;
  list.replaceChildren();
  drawn = 0;
  more();
  if (!shown.includes(current)) show(shown[0] || null, false);
  else mark();
}

function more() {
  for (const row of shown.slice(drawn, drawn + WINDOW)) {
    const item = make("li"), button = make("button");
    const states = make("span");
    row.replies.forEach((reply, side) => {
      const word = reply ? reply.state : "PENDING";
      if (side) states.append(" | ");
      states.append(make("span", word.replace("_", " "), word));
    });
    const given = row.replies.map((reply) => (reply ? reply.given || "?" : "-")).join(" | ");
    button.append(make("span", row.n, "n"), states, make("span", row.title || nameOf(row), "name"),
      make("span", given + " / " + (row.key || "-"), "muted"));
    button.title = nameOf(row);
    button.addEventListener("click", () => show(row, true));
    row.button = button;
    item.append(button);
    list.append(item);
  }
  drawn = Math.min(drawn + WINDOW, shown.length);
}
list.parentElement.addEventListener("scroll", (event) => {
  const box = event.target;
  if (drawn < shown.length && box.scrollTop + box.clientHeight > box.scrollHeight - 400) more();
});

function mark() {
  for (const row of shown) if (row.button) row.button.setAttribute("aria-current", String(row === current));
}

function pieces(parts) {
  const pre = make("pre");
  for (const [text, graders] of parts) {
    if (!graders.length) { pre.append(text); continue; }
    const node = make("mark", text, graders.map((name) => "m-" + name).join(" "));
    node.title = "read by: " + graders.join(", ");
    pre.append(node);
  }
  return pre;
}

function side(reply, name) {
  const box = make("section", null, "side");
  if (two) box.append(make("h2", name));
  if (!reply) { box.append(make("p", "not answered", "muted")); return box; }
  const head = make("p");
  head.append(make("strong", reply.state.replace("_", " "), reply.state), " given " + (reply.given || "-"));
  box.append(head);
  const table = make("table");
  for (const [grader, verdict, given, rule] of reply.grades) {
    const line = make("tr"), cell = make("th");
    cell.append(make("mark", grader, "m-" + grader));
    line.append(cell, make("td", WORDS[verdict], verdict), make("td", verdict ? given || "-" : ""), make("td", rule, "muted"));
    table.append(line);
  }
  box.append(table, make("p", reply.cost, "muted"));
  for (const note of reply.notes) box.append(make("p", note, "none"));
  if (reply.thinking.length) {
    const fold = make("details", null, "thinking");
    const size = reply.thinking.reduce((n, [text]) => n + text.length, 0);
    fold.append(make("summary", "thinking, " + size.toLocaleString("en") + " characters" + (reply.open ? ", never ended" : "")));
    fold.append(pieces(reply.thinking));
    box.append(fold);
  }
  if (reply.answer.length) {
    const answer = make("div", null, "reply");
    answer.append(pieces(reply.answer));
    box.append(answer);
  }
  return box;
}

function show(row, focus) {
  current = row;
  detail.replaceChildren();
  if (!row) { detail.append(make("p", "Nothing fits the filter.", "muted")); return; }
  detail.append(make("h2", row.n + ". " + nameOf(row)));
  detail.append(make("p", [row.domain, row.title, "key " + (row.key || "unknown")].filter(Boolean).join(" · "), "muted"));
  const question = make("div", null, "question");
  question.append(make("pre", row.text));
  if (row.choices.length) {
    const choices = make("ul", null, "choices");
    row.choices.forEach((choice, place) => {
      const letter = String.fromCharCode(65 + place), item = make("li", letter + ". " + choice);
      if (letter === row.key) { item.className = "key"; item.append(make("small", "  key")); }
      choices.append(item);
    });
    question.append(choices);
  }
  detail.append(question);
  if (two && row.part !== null)
    detail.append(make("p", row.part < 0 ? "The replies are the same." : "The replies part at character " + row.part.toLocaleString("en") + ".", "muted"));
  const sides = make("div", null, "sides");
  row.replies.forEach((reply, place) => sides.append(side(reply, data.names[place])));
  detail.append(sides);
  detail.scrollTop = 0;
  if (focus) detail.focus({ preventScroll: true });
  mark();
}

function step(by) {
  const place = Math.min(Math.max(shown.indexOf(current) + by, 0), shown.length - 1);
  if (place < 0) return;
  while (place >= drawn && drawn < shown.length) more();
  show(shown[place], false);
  shown[place].button.scrollIntoView({ block: "nearest" });
}
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "j" || event.key === "n") step(1);
  if (event.key === "k" || event.key === "p") step(-1);
  if (event.key === "t") for (const fold of detail.querySelectorAll("details")) fold.open = !fold.open;
  if (event.key === "/") { event.preventDefault(); at("words").focus(); }
});
for (const id of ["state", "source", "flips"]) at(id).addEventListener("change", filter);
at("words").addEventListener("input", filter);
filter();
