// One picture at a time: ask, show, remember.
// Everything from outside enters the page as text, never as markup.

const MOST_KEPT = 24; // pictures in the history
const SIDE = 480; // pixels of the longer side of a thumbnail
const GONE = "The server does not answer. Is it still running?";

let limits = { bytes: Infinity };
let current = null; // the entry of the history that is shown
let question = 0; // counts what was asked, so that a late answer can be dropped

// Newest first: name, thumbnail and answer of each picture, in this tab only.
const past = JSON.parse(sessionStorage.getItem("past") || "[]");

const $ = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const spaced = (key) => key.replaceAll("_", " ");

function element(tag, text = "", classes = "") {
  const made = document.createElement(tag);
  return Object.assign(made, { textContent: text, className: classes });
}

// A problem is passing if another try may help.
function problem(text, passing = false) {
  return Object.assign(Error(text), { passing });
}

// Nested values of the model's card as one line.
function flat(value) {
  if (Object(value) !== value) return `${value}`;
  const parts = Object.entries(value).map(([key, x]) => `${spaced(key)} ${flat(x)}`);
  return parts.join(", ");
}

async function thumbnail(blob) {
  try {
    const bitmap = await createImageBitmap(blob);
    const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
    const canvas = element("canvas");
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    const pen = canvas.getContext("2d");
    // The server lays transparent pictures on white, too.
    pen.fillStyle = "white";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    return canvas.toDataURL(scale < 1 ? "image/jpeg" : "image/png", 0.85);
  } catch {
    return ""; // a format that the server knows and the browser does not
  }
}

async function answerOf(blob, explain) {
  if (blob.size > limits.bytes) {
    const most = `at most ${limits.bytes / 2 ** 20} MiB`;
    throw problem(`This file is too large: ${most}. Choose a smaller one.`);
  }
  const isImage = blob.type.startsWith("image/");
  const type = isImage ? blob.type : "application/octet-stream";
  const request = { method: "POST", body: blob, headers: { "Content-Type": type } };
  let response;
  try {
    response = await fetch(`predict?explain=${explain}`, request);
  } catch {
    throw problem(GONE, true);
  }
  const status = `The server answered with an error (${response.status}).`;
  const answer = await response.json().catch(() => ({ error: status }));
  if (!response.ok) {
    const sentence = answer.error[0].toUpperCase() + answer.error.slice(1) + ".";
    throw problem(sentence, response.status >= 500);
  }
  return answer;
}

async function ask(blob, name) {
  const mine = ++question;
  const thumb = await thumbnail(blob);
  current = null;
  preview({ name, thumb });
  say("Asking …", true);
  try {
    const { predictions, milliseconds } = await answerOf(blob, $("explain").checked);
    if (mine !== question) return; // another picture came meanwhile
    const [{ top, pred_label, explanation }] = predictions;
    const unknown = pred_label === null;
    current = { name, thumb, blob, top, unknown, explanation, milliseconds };
    past.unshift(current);
    past.length = Math.min(past.length, MOST_KEPT);
    show(current);
  } catch (error) {
    if (mine === question) fail(error, () => ask(blob, name));
  }
}

async function explain() {
  const entry = current;
  if (!entry) return;
  if (!$("explain").checked || entry.explanation) {
    show(entry);
    return;
  }
  if (!entry.blob) {
    const reloaded = "This picture was asked before the page was loaded anew.";
    fail(problem(`${reloaded} Choose it again to have it explained.`));
    return;
  }
  say("Asking …", true);
  try {
    const { predictions } = await answerOf(entry.blob, true);
    entry.explanation = predictions[0].explanation;
    if (entry === current) show(entry);
  } catch (error) {
    fail(error, explain);
  }
}

function say(text, busy = false) {
  $("status").textContent = text;
  $("answer").setAttribute("aria-busy", busy);
  $("error").hidden = true;
  $("again").hidden = true;
}

function fail(error, retry) {
  say("");
  if (retry) $("bars").replaceChildren();
  Object.assign($("error"), { textContent: error.message, hidden: false });
  Object.assign($("again"), { hidden: !error.passing, onclick: retry });
  remember();
}

function preview({ name, thumb, explanation }) {
  const url = ($("explain").checked && explanation) || thumb;
  Object.assign($("picture"), { src: url || "data:,", hidden: !url, alt: name });
}

function show(entry) {
  current = entry;
  preview(entry);
  const [best, next] = entry.top;
  const more = next ? `, then ${next.name}, ${percent(next.score)}` : "";
  const time = `${Math.round(entry.milliseconds)} ms`;
  say(`${sure(entry)}${best.name}, ${percent(best.score)}${more}. ${time}.`);
  $("bars").replaceChildren(...entry.top.map(barOf));
  $("explaining").hidden = false;
  remember();
}

// Where the score is too low for an answer, the best class is only a guess.
function sure({ unknown }) {
  return unknown ? "unknown, at best " : "";
}

function barOf({ name, score }) {
  const row = element("li");
  const bar = element("span", "", "bar");
  bar.style.setProperty("--share", score);
  row.append(element("span", name), element("span", percent(score), "value"), bar);
  return row;
}

// Show the history, and keep it for a reload, without the files themselves.
function remember() {
  $("past").hidden = !past.length;
  $("history").replaceChildren(...past.map(itemOf));
  const kept = [];
  for (const { name, thumb, top, unknown, milliseconds } of past) {
    kept.push({ name, thumb, top, unknown, milliseconds });
  }
  try {
    sessionStorage.setItem("past", JSON.stringify(kept));
  } catch {
    sessionStorage.removeItem("past"); // it is full
  }
}

function itemOf(entry) {
  const [best] = entry.top;
  const text = `${sure(entry)}${best.name}, ${percent(best.score)}`;
  const button = element("button", text);
  const choose = () => {
    question++;
    show(entry);
  };
  Object.assign(button, { type: "button", title: entry.name, onclick: choose });
  button.setAttribute("aria-current", entry === current);
  const image = Object.assign(element("img"), { src: entry.thumb || "data:,", alt: "" });
  button.prepend(image);
  const item = element("li");
  item.append(button);
  return item;
}

function take(files) {
  if (files?.[0]) ask(files[0], files[0].name);
}

function chosen({ target }) {
  take(target.files);
  target.value = ""; // so that the same file can be chosen again
}

function dragged(event) {
  event.preventDefault();
  document.body.classList.toggle("over", event.type === "dragover");
  if (event.type === "drop") take(event.dataTransfer.files);
}

// The figures are drawn when somebody first asks for them.
function loadFigures() {
  for (const name of ["token_units", "embeddings"]) {
    $(name).src ||= `figures/${name}.png`;
  }
}

function describe(model) {
  limits = model.limits;
  const count = model.labels.length;
  const parameters = `${model.parameters.toLocaleString("en")} parameters`;
  const classes = `${count.toLocaleString("en")} classes`;
  $("model").textContent = `${model.name}: ${parameters}, ${classes}`;
  $("weights").hidden = !model.figures.length;
  const [height, width] = model.preprocess.image_size;
  const said = {
    Model: model.name,
    Classes: model.labels.slice(0, 40).join(", ") + (count > 40 ? ", …" : ""),
    "Looks at": `${width} × ${height} pixels`,
    Scores: model.score_kind,
    ...model.provenance,
  };
  for (const [key, value] of Object.entries(said)) {
    $("card").append(element("dt", spaced(key)), element("dd", flat(value)));
  }
}

$("file").onchange = chosen;
$("camera").onchange = chosen;
$("explain").onchange = explain;
$("picture").onload = ({ target }) => {
  target.classList.toggle("small", target.naturalWidth <= 64);
};
$("weights").ontoggle = loadFigures;
document.addEventListener("paste", (event) => take(event.clipboardData.files));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, dragged);
}

remember();
fetch("model")
  .then((response) => response.json())
  .then(describe)
  .catch(() => fail(problem(GONE, true), () => location.reload()));
