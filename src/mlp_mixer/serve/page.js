// Picture after picture: ask, show, remember.
// Everything from outside enters the page as text, never as markup.

const MOST_KEPT = 60; // pictures in the history
const UNSURE = 0.5; // score of the best class, below which an answer is hardly one
const SIDE = 480; // pixels of the longer side of a thumbnail
const GONE = "The server does not answer. Is it still running?";

let limits = { bytes: Infinity };
let current = null; // the entry of the history that is shown
let question = 0; // counts what was asked for, so that a late answer is not shown
let working = false;
let dropped = 0; // answers that the history had no more room for
const waiting = []; // pictures that were chosen and not asked about yet

// Newest first: name, thumbnail and answer of each picture, in this tab only.
const past = JSON.parse(sessionStorage.getItem("past") || "[]");

const darkness = matchMedia("(prefers-color-scheme: dark)");

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

// Every file that was chosen, dropped or pasted is asked about, one after the other.
async function take(files) {
  waiting.push(...(files ?? []));
  if (working) return;
  working = true;
  const mine = ++question;
  const failures = [];
  let asked = 0;
  while (waiting.length) {
    const file = waiting.shift();
    asked++;
    const of = waiting.length ? ` ${asked} of ${asked + waiting.length}` : "";
    try {
      await ask(file, mine, `Asking${of} …`);
    } catch (error) {
      failures.push({ file, error });
    }
  }
  working = false;
  if (failures.length) report(failures, asked);
}

async function ask(blob, mine, words) {
  const { name } = blob;
  const thumb = await thumbnail(blob);
  // Somebody who looks at an older answer meanwhile is not interrupted.
  if (mine === question) {
    current = null;
    preview({ name, thumb });
    say(words, true);
  }
  const { predictions, milliseconds } = await answerOf(blob, $("explain").checked);
  const [answer] = predictions;
  const unknown = answer.pred_label === null;
  const { top, labels } = answer;
  const entry = { name, thumb, blob, top, labels, unknown, milliseconds };
  entry.explained = await laidOver(thumb, answer);
  past.unshift(entry);
  dropped += Math.max(0, past.length - MOST_KEPT);
  past.length = Math.min(past.length, MOST_KEPT);
  if (mine === question) show(entry);
  else remember();
}

// Of one picture its sentence; of several those that have no answer, each in a line.
function report(failures, asked) {
  const again = failures.filter(({ error }) => error.passing).map(({ file }) => file);
  const retry = () => take(again);
  if (asked === 1) {
    fail(failures[0].error, retry);
    return;
  }
  const lines = failures.map(({ file, error }) => `${file.name}: ${error.message}`);
  const head = `No answer to ${failures.length} of ${asked} pictures.`;
  if (!current) {
    say("");
    $("bars").replaceChildren();
  }
  $("answer").setAttribute("aria-busy", false);
  complain([head, ...lines].join("\n"), again.length > 0, retry);
  remember();
}

// The map on the part of the picture that the network saw; the rest is darker.
async function laidOver(thumb, { explanation, explanation_map, explanation_box }) {
  if (!explanation) return "";
  // The browser cannot show this picture: what the network saw is better than nothing.
  if (!thumb || !explanation_box) return explanation;
  const [picture, map] = await Promise.all([thumb, explanation_map].map(loaded));
  // Small pictures are enlarged, so that the map is not as coarse as they are.
  const times = Math.max(1, Math.floor(SIDE / Math.max(picture.width, picture.height)));
  const canvas = element("canvas");
  const width = (canvas.width = picture.width * times);
  const height = (canvas.height = picture.height * times);
  const [top, left, bottom, right] = explanation_box;
  const box = [left * width, top * height, (right - left) * width, (bottom - top) * height];
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = times === 1;
  pen.drawImage(picture, 0, 0, width, height);
  pen.imageSmoothingEnabled = true;
  pen.drawImage(map, ...box);
  pen.rect(0, 0, width, height);
  pen.rect(...box);
  pen.fillStyle = "rgb(0 0 0 / 0.45)";
  pen.fill("evenodd");
  return canvas.toDataURL();
}

function loaded(url) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(problem("The map cannot be shown."));
    image.src = url;
  });
}

async function explain() {
  const entry = current;
  if (!entry) return;
  if (!$("explain").checked || entry.explained) {
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
    entry.explained = await laidOver(entry.thumb, predictions[0]);
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
  complain(error.message, error.passing, retry);
  remember();
}

function complain(text, passing, retry) {
  Object.assign($("error"), { textContent: text, hidden: false });
  Object.assign($("again"), { hidden: !passing, onclick: retry });
}

function preview({ name, thumb, explained }) {
  const url = ($("explain").checked && explained) || thumb;
  Object.assign($("picture"), { src: url || "data:,", hidden: !url, alt: name });
}

function show(entry) {
  current = entry;
  preview(entry);
  const next = entry.labels ? null : entry.top[1];
  const more = next ? `, then ${next.name}, ${percent(next.score)}` : "";
  const time = `${Math.round(entry.milliseconds)} ms`;
  say(`${answerIn(entry)}${more}. ${time}.`);
  $("bars").replaceChildren(...entry.top.map(barOf));
  $("explaining").hidden = false;
  remember();
}

// All labels above their thresholds, where a picture may have several; else the best one.
function answerIn(entry) {
  const [best] = entry.top;
  if (!entry.labels) return `${sure(entry)}${best.name}, ${percent(best.score)}`;
  const scored = ({ name, score }) => `${name} (${percent(score)})`;
  return entry.labels.map(scored).join(", ") || `no label, at best ${scored(best)}`;
}

// Where the score is too low for an answer, the best class is only a guess.
function sure({ unknown, top: [best] }) {
  if (unknown) return "unknown, at best ";
  return best.score < UNSURE ? "Not sure: " : "";
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
  $("dropped").hidden = !dropped;
  $("dropped").textContent = `The newest ${MOST_KEPT} are kept, ${dropped} older left.`;
  $("history").replaceChildren(...past.map(itemOf));
  const kept = [];
  for (const { name, thumb, top, labels, unknown, milliseconds } of past) {
    kept.push({ name, thumb, top, labels, unknown, milliseconds });
  }
  try {
    sessionStorage.setItem("past", JSON.stringify(kept));
  } catch {
    sessionStorage.removeItem("past"); // it is full
  }
}

function itemOf(entry) {
  const button = element("button", answerIn(entry));
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

function chosen({ target }) {
  take([...target.files]);
  target.value = ""; // so that the same file can be chosen again
}

function dragged(event) {
  event.preventDefault();
  document.body.classList.toggle("over", event.type === "dragover");
  if (event.type === "drop") take([...event.dataTransfer.files]);
}

// The figures are drawn when somebody first asks for them, in the colours of the page.
function loadFigures() {
  if (!$("weights").open) return;
  for (const name of ["token_units", "embeddings"]) {
    const address = `figures/${name}.png${darkness.matches ? "?dark=true" : ""}`;
    if ($(name).getAttribute("src") !== address) $(name).src = address;
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
darkness.onchange = loadFigures;
document.addEventListener("paste", (event) => take([...event.clipboardData.files]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, dragged);
}

remember();
fetch("model")
  .then((response) => response.json())
  .then(describe)
  .catch(() => fail(problem(GONE, true), () => location.reload()));
