// One picture at a time: ask, show, remember. Everything from outside enters the page as text, never as markup.
const $ = (id) => document.getElementById(id);
const element = (tag, text = "", classes = "") => Object.assign(document.createElement(tag), { textContent: text, className: classes });
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const problem = (text, passing = false) => Object.assign(Error(text), { passing }); // passing: another try may help
const flat = (value) => (Object(value) === value ? Object.entries(value).map(([key, x]) => `${key.replaceAll("_", " ")} ${flat(x)}`).join(", ") : `${value}`);
const past = JSON.parse(sessionStorage.getItem("past") || "[]"); // newest first: name, thumbnail, answer; in this tab only
const MOST_KEPT = 24, SIDE = 480;
let limits = { bytes: Infinity }, current = null, question = 0;

async function thumbnail(blob) {
  try {
    const bitmap = await createImageBitmap(blob);
    const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height)), canvas = element("canvas");
    [canvas.width, canvas.height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
    const pen = canvas.getContext("2d");
    pen.fillStyle = "white"; // as the server lays it
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    return canvas.toDataURL(scale < 1 ? "image/jpeg" : "image/png", 0.85);
  } catch {
    return ""; // a format that the server knows and the browser does not
  }
}

async function answerOf(blob, explain) {
  if (blob.size > limits.bytes) throw problem(`This file is too large: at most ${limits.bytes / 2 ** 20} MiB. Choose a smaller one.`);
  let response;
  try {
    const type = blob.type.startsWith("image/") ? blob.type : "application/octet-stream";
    response = await fetch(`predict?explain=${explain}`, { method: "POST", body: blob, headers: { "Content-Type": type } });
  } catch {
    throw problem("The server does not answer. Is it still running?", true);
  }
  const answer = await response.json().catch(() => ({ error: `The server answered with an error (${response.status}).` }));
  if (!response.ok) throw problem(answer.error[0].toUpperCase() + answer.error.slice(1) + ".", response.status >= 500);
  return answer;
}

async function ask(blob, name) {
  const mine = ++question, thumb = await thumbnail(blob);
  current = null;
  preview({ name, thumb });
  say("Asking …", true);
  try {
    const answer = await answerOf(blob, $("explain").checked);
    if (mine !== question) return; // another picture came meanwhile
    current = { name, thumb, blob, top: answer.predictions[0].top, explanation: answer.predictions[0].explanation, milliseconds: answer.milliseconds };
    past.unshift(current);
    past.length = Math.min(past.length, MOST_KEPT);
    show(current);
  } catch (error) {
    if (mine === question) fail(error, () => ask(blob, name));
  }
}

async function explain() {
  const entry = current;
  if (!entry || !$("explain").checked || entry.explanation) return entry && show(entry);
  if (!entry.blob) return fail(problem("This picture was asked before the page was loaded anew. Choose it again to have it explained."));
  say("Asking …", true);
  try {
    entry.explanation = (await answerOf(entry.blob, true)).predictions[0].explanation;
    if (entry === current) show(entry);
  } catch (error) {
    fail(error, explain);
  }
}

function say(text, busy = false) {
  $("status").textContent = text;
  $("answer").setAttribute("aria-busy", busy);
  $("error").hidden = $("again").hidden = true;
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
  const [best, next] = entry.top, more = next ? `, then ${next.name}, ${percent(next.score)}` : "";
  say(`${best.name}, ${percent(best.score)}${more}. ${Math.round(entry.milliseconds)} ms.`);
  $("bars").replaceChildren(...entry.top.map(({ name, score }) => {
    const row = element("li"), bar = element("span", "", "bar");
    bar.style.setProperty("--share", score);
    row.append(element("span", name), element("span", percent(score), "value"), bar);
    return row;
  }));
  $("explaining").hidden = false;
  remember();
}

function remember() {
  $("past").hidden = !past.length;
  $("history").replaceChildren(...past.map((entry) => {
    const item = element("li"), button = element("button", `${entry.top[0].name}, ${percent(entry.top[0].score)}`);
    Object.assign(button, { type: "button", title: entry.name, onclick: () => (question++, show(entry)) });
    button.setAttribute("aria-current", entry === current);
    button.prepend(Object.assign(element("img"), { src: entry.thumb || "data:,", alt: "" }));
    item.append(button);
    return item;
  }));
  const kept = past.map(({ name, thumb, top, milliseconds }) => ({ name, thumb, top, milliseconds }));
  try { sessionStorage.setItem("past", JSON.stringify(kept)); } catch { sessionStorage.removeItem("past"); } // it is full
}

const take = (files) => files?.[0] && ask(files[0], files[0].name);
for (const id of ["file", "camera"]) $(id).onchange = ({ target }) => (take(target.files), (target.value = ""));
document.addEventListener("paste", (event) => take(event.clipboardData.files));
for (const kind of ["dragover", "dragleave", "drop"]) document.addEventListener(kind, (event) => {
  event.preventDefault();
  document.body.classList.toggle("over", kind === "dragover");
  if (kind === "drop") take(event.dataTransfer.files);
});
$("explain").onchange = explain;
$("picture").onload = ({ target }) => target.classList.toggle("small", target.naturalWidth <= 64);
$("weights").ontoggle = () => ["token_units", "embeddings"].forEach((name) => ($(name).src ||= `figures/${name}.png`));
remember();
fetch("model").then((response) => response.json()).then((model) => {
  limits = model.limits;
  const { image_size: [height, width] } = model.preprocess, count = model.labels.length;
  $("model").textContent = `${model.name}: ${model.parameters.toLocaleString("en")} parameters, ${count.toLocaleString("en")} classes`;
  $("weights").hidden = !model.figures.length;
  const said = { Model: model.name, Classes: model.labels.slice(0, 40).join(", ") + (count > 40 ? ", …" : ""), "Looks at": `${width} × ${height} pixels`,
    Scores: model.score_kind, ...model.provenance };
  $("card").replaceChildren(...Object.entries(said).flatMap(([key, value]) => [element("dt", key.replaceAll("_", " ")), element("dd", flat(value))]));
}).catch(() => fail(problem("The server does not answer. Is it still running?", true), () => location.reload()));
