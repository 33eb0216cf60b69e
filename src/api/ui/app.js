// The page: draws by /v1/images/generations, asks by a streamed /v1/chat/completions. Uses nothing but the public interface.
"use strict";

const $ = (id) => document.getElementById(id);
const PROMPTS = ["a red circle", "two green stars", "a blue heart above a yellow circle", "a purple circle and an orange star"];
const QUESTIONS = ["What color is the circle?", "How many stars are there?", "Where is the heart?", "Is there a red square?"];
/** Longest side of a picture sent to the server; the model sees it smaller still. */
const LONGEST = 1024;

let model = "";
let picture = null; // data URL of the picture asked about
let pictureAlt = "";

// --- talking to the server -----------------------------------------------------------------------------------------

/** Fetches with the key of this tab; asks for a key when the server wants one, and tries again. */
async function call(path, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = { ...(options.body && { "Content-Type": "application/json" }), ...(key && { Authorization: `Bearer ${key}` }) };
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const error = (await response.json().catch(() => null))?.error;
  if (response.status === 401 && (await askForKey(error?.message))) return call(path, options);
  throw new Error(error?.message ?? `The server answered ${response.status}.`);
}

function askForKey() {
  const dialog = $("key-dialog");
  $("key").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const key = $("key").value.trim();
      if (key) sessionStorage.setItem("key", key);
      resolve(Boolean(key));
    }, { once: true });
  });
}

/** Yields the data of each server-sent event until [DONE]. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const frames = (rest + value).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      const data = frame.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}

async function greet() {
  const status = $("status");
  try {
    const health = await (await fetch("/health")).json();
    model = health.model;
    status.textContent = `${health.model} · version ${health.model_version.slice(0, 12)}`;
    status.classList.remove("wrong");
  } catch {
    status.textContent = "the server does not answer";
    status.classList.add("wrong");
  }
}

function note(id, text, wrong = false) {
  $(id).textContent = text;
  $(id).classList.toggle("wrong", wrong);
}

const number = (id) => ($(id).value === "" ? undefined : Number($(id).value));

// --- drawing -------------------------------------------------------------------------------------------------------

async function draw(event) {
  event.preventDefault();
  const gallery = $("gallery");
  const prompt = $("prompt").value;
  const n = number("n");
  const pending = Array.from({ length: n }, () => Object.assign(document.createElement("div"), { className: "pending" }));
  gallery.replaceChildren(...pending);
  gallery.setAttribute("aria-busy", "true");
  $("draw-go").disabled = true;
  note("draw-note", "Drawing…");
  const start = performance.now();
  try {
    const body = { prompt, n, seed: number("seed"), cfg_weight: number("guidance"), temperature: number("temperature") };
    const reply = await (await call("/v1/images/generations", { method: "POST", body: JSON.stringify(body) })).json();
    gallery.replaceChildren(...reply.data.map((item) => figure(item, prompt)));
    note("draw-note", `${reply.data.length} in ${((performance.now() - start) / 1000).toFixed(1)} s, at ${reply.size}`);
  } catch (error) {
    gallery.replaceChildren();
    note("draw-note", error.message, true);
  } finally {
    gallery.removeAttribute("aria-busy");
    $("draw-go").disabled = false;
  }
}

function figure(item, prompt) {
  const node = $("picture").content.cloneNode(true);
  const url = `data:image/png;base64,${item.b64_json}`;
  const image = node.querySelector("img");
  image.src = url;
  image.alt = prompt;
  const seed = node.querySelector(".seed");
  seed.textContent = `seed ${item.seed}`;
  seed.addEventListener("click", () => { $("seed").value = item.seed; $("n").value = 1; $("prompt").value = prompt; });
  node.querySelector(".ask").addEventListener("click", () => { show(url, prompt); $("question").focus(); });
  Object.assign(node.querySelector(".save"), { href: url, download: `${prompt.replace(/\W+/g, "-").slice(0, 60)}-${item.seed}.png` });
  return node;
}

// --- asking --------------------------------------------------------------------------------------------------------

function show(url, alt) {
  picture = url;
  pictureAlt = alt;
  $("preview").src = url ?? "";
  $("preview").alt = alt;
  $("preview").hidden = $("clear").hidden = !url;
  $("drop-hint").hidden = Boolean(url);
}

/** Any picture the browser knows, upright, not larger than needed, as a PNG. */
async function take(file) {
  try {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    show(canvas.toDataURL("image/png"), file.name || "pasted picture");
    note("ask-note", "");
  } catch {
    note("ask-note", `${file.name || "This"} is not a picture the browser can read.`, true);
  }
}

async function ask(event) {
  event.preventDefault();
  const question = $("question").value;
  const article = $("answer").content.firstElementChild.cloneNode(true);
  article.querySelector(".question").textContent = question;
  if (picture) Object.assign(article.querySelector("img"), { src: picture, alt: pictureAlt, hidden: false });
  article.classList.add("busy");
  $("answers").prepend(article);
  const content = [...(picture ? [{ type: "image_url", image_url: { url: picture } }] : []), { type: "text", text: question }];
  const stop = new AbortController();
  $("ask-stop").onclick = () => stop.abort();
  $("ask-stop").hidden = false;
  $("ask-go").disabled = true;
  note("ask-note", "");
  try {
    const body = { model, messages: [{ role: "user", content }], stream: true };
    const response = await call("/v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal: stop.signal });
    let text = "";
    for await (const chunk of events(response)) {
      if (chunk.error) throw new Error(chunk.error.message);
      text += chunk.choices[0]?.delta.content ?? "";
      write(article, text);
    }
    write(article, text, true);
  } catch (error) {
    if (error.name !== "AbortError") note("ask-note", error.message, true);
  } finally {
    article.classList.remove("busy");
    $("ask-stop").hidden = true;
    $("ask-go").disabled = false;
  }
}

/** Splits what the model wrote into its thinking and its answer, whole or still growing. */
function split(text) {
  const think = /<think>([\s\S]*?)(?:<\/think>|$)/.exec(text);
  const answer = /<answer>([\s\S]*?)(?:<\/answer>|$)/.exec(text);
  const rest = text.replace(/<think>[\s\S]*?(?:<\/think>|$)/, "");
  return { think: think?.[1].trim() ?? "", said: (answer ? answer[1] : rest).trim() };
}

function write(article, text, done = false) {
  const { think, said } = split(text);
  const details = article.querySelector("details");
  details.hidden = !think;
  // Open while there is nothing else to read.
  if (!details.dataset.settled) details.open = !said && !done;
  if (said) details.dataset.settled = "yes";
  article.querySelector(".think").textContent = think;
  article.querySelector(".said").textContent = said || (done ? "(no answer)" : "");
}

// --- the page ------------------------------------------------------------------------------------------------------

function chips(id, texts, field) {
  $(id).append(...texts.map((text) => {
    const chip = Object.assign(document.createElement("button"), { type: "button", textContent: text });
    chip.addEventListener("click", () => { $(field).value = text; $(field).focus(); });
    return chip;
  }));
}

function theme(name) {
  if (name) document.documentElement.dataset.theme = name;
}

chips("prompts", PROMPTS, "prompt");
chips("questions", QUESTIONS, "question");
$("draw").addEventListener("submit", draw);
$("ask").addEventListener("submit", ask);
for (const [field, form] of [["prompt", "draw"], ["question", "ask"]]) {
  $(field).addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      if (!$(`${form}-go`).disabled) $(form).requestSubmit();
    }
  });
}
$("smooth").addEventListener("change", () => $("gallery").classList.toggle("smooth", $("smooth").checked));
$("file").addEventListener("change", () => $("file").files[0] && take($("file").files[0]));
$("clear").addEventListener("click", () => { $("file").value = ""; show(null, ""); });
const drop = $("drop");
for (const kind of ["dragenter", "dragover"]) drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => { event.preventDefault(); if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]); });
addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((file) => file.type.startsWith("image/"));
  if (file) { event.preventDefault(); take(file); }
});
theme(localStorage.getItem("theme"));
$("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  const next = dark === "dark" ? "light" : "dark";
  theme(next);
  localStorage.setItem("theme", next);
});
greet();
setInterval(greet, 20000);
