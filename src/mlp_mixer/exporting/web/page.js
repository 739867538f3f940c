// What people see: pictures in, a card for each, answers from the worker.
// Everything from outside enters the page as text, never as markup.

const UNSURE = 0.5; // score of the best class, below which an answer is hardly one
const UNKNOWN = "unknown";

const $ = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;
const about = JSON.parse($("about").textContent);
const coarse = matchMedia("(pointer: coarse)");

const entries = new Map(); // by number, in the order of asking
let number = 0;
let waiting = 0;
let batch = []; // of the pictures that were given together or while others waited
let engine = null;
let working = true; // whether there is something that can answer

function element(tag, text = "", classes = "") {
  const made = document.createElement(tag);
  return Object.assign(made, { textContent: text, className: classes });
}

function say(text) {
  $("status").textContent = text;
}

function complain(text) {
  Object.assign($("error"), { textContent: text, hidden: !text });
}

// The data leave the page's text once they are handed over.
function handed(id) {
  const text = $(id).textContent;
  $(id).remove();
  return text;
}

function begin() {
  const url = URL.createObjectURL(new Blob([handed("engine")], { type: "text/javascript" }));
  engine = new Worker(url);
  engine.onmessage = ({ data }) => heard(data);
  engine.onerror = () => stop("its engine did not start");
  const start = { about, wasm: handed("wasm"), model: handed("model") };
  engine.postMessage({ start });
}

function heard({ ready, failed, ask, answer, refused }) {
  if (ready) {
    document.documentElement.dataset.ready = "true";
    if (!waiting && !entries.size) say("Ready. Your pictures stay on this device.");
  } else if (failed) {
    stop(failed);
  } else {
    waiting--;
    const entry = entries.get(ask);
    // It may have been removed meanwhile.
    if (entry) {
      Object.assign(entry, { answer, refused });
      show(entry);
    }
    report();
  }
}

function stop(reason) {
  working = false;
  waiting = 0;
  for (const entry of entries.values()) if (!entry.answer) remove(entry);
  say("");
  const browsers = "Chrome or Edge 91, Firefox 113, Safari 16.4 and newer ones";
  complain(`This browser cannot run the classifier (${reason}). It works in ${browsers}.`);
}

// A picture that is given: a card that waits, and a question for the worker.
function take(files) {
  if (!working) return;
  complain("");
  if (!waiting) batch = [];
  for (const blob of files ?? []) {
    const entry = { ask: ++number, name: blob.name || "picture", url: URL.createObjectURL(blob) };
    entries.set(entry.ask, entry);
    batch.push(entry);
    waiting++;
    card(entry);
    engine.postMessage({ ask: entry.ask, blob });
  }
  report();
}

function card(entry) {
  const { name, url } = entry;
  const item = element("li", "", "card waiting");
  const shown = element("div", "", "shown");
  const image = Object.assign(element("img"), { src: url, alt: name });
  image.onerror = () => image.remove();
  image.onload = () => image.classList.toggle("small", image.naturalWidth <= 64);
  shown.append(image);
  const said = element("div", "", "said");
  said.append(element("h2", "…"), element("p", name, "file"));
  const close = element("button", "×", "remove");
  Object.assign(close, { type: "button", onclick: () => removed(entry) });
  close.setAttribute("aria-label", `Remove ${name}`);
  item.append(shown, said, close);
  Object.assign(entry, { item, shown, said });
  $("answers").prepend(item);
}

function removed(entry) {
  const next = entry.item.nextElementSibling ?? entry.item.previousElementSibling;
  remove(entry);
  // The keyboard goes on where it was.
  (next?.querySelector(".remove") ?? $("file")).focus();
  say(`${entry.name} is removed.`);
}

function remove(entry) {
  URL.revokeObjectURL(entry.url);
  entry.item.remove();
  entries.delete(entry.ask);
  offer();
}

function show(entry) {
  const { item, said, shown, answer, refused, name } = entry;
  item.className = `card${refused ? " refused" : ""}`;
  const head = element("h2", sentence(entry));
  const parts = [head, element("p", fileLine(entry), "file")];
  if (answer) {
    const bars = element("ol", "", "bars");
    bars.append(...answer.top.map(barOf));
    parts.push(bars);
    shown.querySelector("canvas")?.remove();
    shown.append(pixelsSeen(answer.seen, name));
  }
  said.replaceChildren(...parts);
}

function fileLine({ name, answer }) {
  if (!answer) return name;
  const [width, height] = answer.size;
  return `${name} · ${width} × ${height} · ${Math.round(answer.milliseconds)} ms`;
}

// All labels above their thresholds, where a picture may have several; else the best one.
function sentence({ answer, refused }) {
  if (refused) return refused;
  const { top, labels } = answer;
  const [best] = top;
  const scored = ({ name, score }) => `${name}, ${percent(score)}`;
  if (labels) return labels.map(scored).join("; ") || `no label; at best ${scored(best)}`;
  if (isUnknown(best)) return `${UNKNOWN}; at best ${scored(best)}`;
  return `${best.score < UNSURE ? "Not sure: " : ""}${scored(best)}`;
}

// Below the lowest score that somebody has set, as `predict --min-score`.
function isUnknown(best) {
  const least = $("least").valueAsNumber / 100;
  return best.score < least;
}

function barOf({ name, score }) {
  const row = element("li");
  const bar = element("span", "", "bar");
  bar.style.setProperty("--share", score);
  row.append(element("span", name), element("span", percent(score), "value"), bar);
  return row;
}

// What the network is given of the picture, in its own size.
function pixelsSeen({ data, width, height, channels }, name) {
  const canvas = element("canvas");
  Object.assign(canvas, { width, height });
  const what = `What the network sees of ${name}: ${width} by ${height} pixels`;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", what);
  canvas.title = what;
  const pen = canvas.getContext("2d");
  const pixels = pen.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let k = 0; k < 3; k++) {
      pixels.data[4 * i + k] = data[i * channels + (channels === 1 ? 0 : k)];
    }
    pixels.data[4 * i + 3] = 255;
  }
  pen.putImageData(pixels, 0, 0);
  return canvas;
}

// One sentence for those who listen, and not one for each of a hundred pictures.
function report() {
  offer();
  const done = batch.length - waiting;
  if (waiting) {
    say(batch.length > 1 ? `Looking: ${done} of ${batch.length} …` : "Looking …");
    return;
  }
  const failed = batch.filter(({ refused }) => refused);
  if (batch.length === 1) {
    const [entry] = batch;
    if (entries.has(entry.ask)) say(`${entry.name}: ${sentence(entry)}`);
  } else if (batch.length) {
    const took = ({ answer }) => answer?.milliseconds ?? 0;
    const seconds = batch.reduce((sum, entry) => sum + took(entry), 0) / 1000;
    const answers = `${batch.length - failed.length} of ${batch.length} pictures answered`;
    say(`${answers} in ${seconds.toFixed(1)} s, the last one first.`);
  }
}

function offer() {
  // A lowest score is of one class per picture.
  $("limit").hidden = !entries.size || Boolean(about.thresholds);
  document.body.classList.toggle("some", entries.size > 0);
  $("clear").hidden = !entries.size;
  $("save").hidden = ![...entries.values()].some(({ answer }) => answer);
}

// The columns of `mlp-mixer predict --out answers.csv --min-score`.
function asCsv() {
  const quoted = (value) => (/[",\r\n]/.test(value) ? `"${`${value}`.replaceAll('"', '""')}"` : value);
  const most = Math.min(5, about.labels.length);
  const head = ["path", "pred_label", "pred_class", "pred_score"];
  for (let rank = 1; rank <= most; rank++) head.push(`top${rank}_class`, `top${rank}_score`);
  const rows = [[...head, "labels", "error"]];
  for (const { name, answer, refused } of entries.values()) {
    if (!answer && !refused) continue;
    const [best] = answer?.top ?? [];
    const unknown = best && !answer.labels && isUnknown(best);
    const first = best ? [unknown ? "" : best.number, unknown ? UNKNOWN : best.name, best.score] : ["", "", ""];
    const candidates = (answer?.top ?? []).flatMap((one) => [one.name, one.score]);
    while (candidates.length < 2 * most) candidates.push("");
    const labels = (answer?.labels ?? []).map((one) => one.name).join(";");
    rows.push([name, ...first, ...candidates, labels, refused ?? ""]);
  }
  return rows.map((row) => `${row.map(quoted).join(",")}\n`).join("");
}

function save() {
  const url = URL.createObjectURL(new Blob([asCsv()], { type: "text/csv" }));
  Object.assign(element("a"), { href: url, download: "answers.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

function clear() {
  for (const entry of [...entries.values()]) remove(entry);
  complain("");
  $("file").focus();
  say("All pictures are removed.");
}

// A telephone has a camera program of its own; elsewhere the page shows what it films.
async function film() {
  if (coarse.matches) {
    $("capture").click();
    return;
  }
  try {
    const video = { facingMode: "environment", width: { ideal: 1920 } };
    $("video").srcObject = await navigator.mediaDevices.getUserMedia({ video });
  } catch (error) {
    complain(`The camera cannot be used (${error.message}). Choose a file instead.`);
    return;
  }
  $("viewfinder").showModal();
}

async function shoot() {
  const { videoWidth, videoHeight } = $("video");
  if (!videoWidth) return; // it has not begun
  const canvas = element("canvas");
  Object.assign(canvas, { width: videoWidth, height: videoHeight });
  canvas.getContext("2d").drawImage($("video"), 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve));
  $("viewfinder").close();
  take([new File([blob], `photo ${number + 1}.png`, { type: "image/png" })]);
}

function stopFilming() {
  for (const track of $("video").srcObject?.getTracks() ?? []) track.stop();
  $("video").srcObject = null;
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

// Show the cards again: the lowest score has changed.
function again() {
  for (const entry of entries.values()) if (entry.answer) show(entry);
}

function advise() {
  const { min_score: chosen } = about;
  if (!chosen) return;
  const { score, accuracy, coverage, n } = chosen;
  const answered = `${percent(coverage)} of ${n} validation pictures were answered`;
  $("advised").textContent = `Use ${percent(score)}`;
  $("advised").hidden = false;
  $("hint").textContent = `With it ${answered}, and ${percent(accuracy)} of the answers were right.`;
  $("advised").onclick = () => {
    // Rounded down: a picture with this very score has an answer.
    $("least").value = Math.floor(1e6 * score) / 1e4;
    again();
  };
}

$("file").onchange = chosen;
$("capture").onchange = chosen;
$("camera").onclick = film;
$("camera").hidden = !(coarse.matches || navigator.mediaDevices?.getUserMedia);
$("shoot").onclick = shoot;
$("close").onclick = () => $("viewfinder").close();
$("viewfinder").onclose = stopFilming;
$("save").onclick = save;
$("clear").onclick = clear;
$("least").oninput = again;
document.addEventListener("paste", (event) => take([...event.clipboardData.files]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, dragged);
}
advise();
try {
  begin();
} catch (error) {
  stop(error.message);
}
