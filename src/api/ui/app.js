// The page: draws by /v1/images/generations, asks by a streamed /v1/chat/completions, rates by /v1/feedback, and shows what
// the server has kept. Uses nothing but the public interface.
"use strict";

const $ = (id) => document.getElementById(id);
const PROMPTS = ["a red circle", "two green stars", "a blue heart above a yellow circle", "a purple circle and an orange star"];
const QUESTIONS = ["What color is the circle?", "How many stars are there?", "Where is the heart?", "Is there a red square?"];
/** Longest side of a picture sent to the server; the model sees it smaller still. */
const LONGEST = 1024;

/** Entries of the history that come at once. */
const PAGE = 12;

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

const json = async (method, path, body) => (await call(path, { method, body: body && JSON.stringify(body) })).json();

function note(place, text, wrong = false) {
  place.textContent = text;
  place.classList.toggle("wrong", wrong);
}

const copy = (template) => $(template).content.firstElementChild.cloneNode(true);
const element = (name, properties) => Object.assign(document.createElement(name), properties);
const number = (id) => ($(id).value === "" ? undefined : Number($(id).value));

// --- feedback ------------------------------------------------------------------------------------------------------

/** This browser's name among raters, and among those who ask. Not randomUUID, which pages on plain http do not have. */
const RATER = localStorage.getItem("rater") ?? `page-${crypto.getRandomValues(new BigUint64Array(2)).join("-")}`;
localStorage.setItem("rater", RATER);
const KINDS = ["thumb", "preferred", "correction"];
const WAYS = ["up", "down"];

/** What this rater has said, as the server keeps it, by kind and sample. */
const opinions = new Map();
let turn = Promise.resolve();

/** A request's id and its samples that are kept. */
function samplesOf({ id, data, choices }) {
  return { id, samples: (data ?? choices).map((item) => item.sample_id).filter(Boolean) };
}

/** Says one thing of a sample, in place of what was said before; null takes it back. */
async function say(sample, kind, opinion) {
  const before = opinions.get(`${kind} ${sample}`);
  const kept = before
    ? await json(opinion ? "PUT" : "DELETE", `/v1/feedback/${before.id}`, opinion)
    : await json("POST", "/v1/feedback", { ...(!opinion.preferred && { sample_id: sample }), ...opinion, rater: RATER });
  if (opinion) opinions.set(`${kind} ${sample}`, kept);
  else opinions.delete(`${kind} ${sample}`);
  paint(sample);
}

/** Asks the server what this rater has said of a request. */
async function recall({ id, samples }) {
  const { data } = await json("GET", `/v1/feedback?sample_id=${id}`);
  for (const sample of samples) for (const kind of KINDS) opinions.delete(`${kind} ${sample}`);
  for (const feedback of data.filter((feedback) => feedback.rater === RATER)) {
    for (const kind of KINDS) if (kind in feedback) opinions.set(`${kind} ${feedback.sample_id}`, feedback);
  }
  samples.forEach(paint);
}

/** Shows what was said of a sample, wherever it stands on the page. */
function paint(sample) {
  const [thumb, preferred, correction] = KINDS.map((kind) => opinions.get(`${kind} ${sample}`)?.[kind]);
  const press = (button, pressed) => button?.setAttribute("aria-pressed", pressed);
  for (const node of document.querySelectorAll(`[data-sample="${sample}"]`)) {
    for (const way of WAYS) press(node.querySelector(`.${way}`), thumb === way);
    press(node.querySelector(".best"), Boolean(preferred));
    const thanks = node.querySelector(".thanks");
    if (thanks) thanks.textContent = correction ? `Thank you. Noted: ${correction}` : "";
  }
}

/** Gives a picture or a reply its controls, where the server has kept it. */
function rate(node, sample, request) {
  if (!sample) return;
  node.dataset.sample = sample;
  const place = node.querySelector(".note");
  const best = node.querySelector(".best");
  const correct = node.querySelector(".correct");
  node.querySelector(".feedback").prepend(copy("thumbs"));
  node.querySelector(".feedback").hidden = false;

  // One after another, so that every click finds what the click before it has done.
  const when = (work) => (turn = turn.then(work).then(() => note(place, ""), async (error) => {
    note(place, error.message, true);
    await recall(request).catch(() => {});
  }));
  for (const way of WAYS) {
    node.querySelector(`.${way}`).addEventListener("click", () => when(() => {
      const pressed = opinions.get(`thumb ${sample}`)?.thumb === way;
      return say(sample, "thumb", pressed ? null : { thumb: way });
    }));
  }
  if (best) {
    best.hidden = request.samples.length < 2;
    best.addEventListener("click", () => when(async () => {
      const before = request.samples.find((other) => opinions.has(`preferred ${other}`));
      if (before) await say(before, "preferred", null);
      const over = request.samples.filter((other) => other !== sample);
      if (before !== sample) await say(sample, "preferred", { preferred: sample, over });
    }));
  }
  if (correct) {
    const form = node.querySelector(".correction");
    const input = form.querySelector("input");
    const open = (yes) => {
      form.hidden = !yes;
      correct.hidden = node.querySelector(".thanks").hidden = yes;
      (yes ? input : correct).focus();
    };
    correct.addEventListener("click", () => open(true));
    form.querySelector(".cancel").addEventListener("click", () => open(false));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      when(() => say(sample, "correction", { correction: input.value }).then(() => open(false)));
    });
  }
}

// --- drawing -------------------------------------------------------------------------------------------------------

async function draw(event) {
  event.preventDefault();
  const gallery = $("gallery");
  const prompt = $("prompt").value;
  const n = number("n");
  const pending = Array.from({ length: n }, () => element("div", { className: "pending" }));
  gallery.replaceChildren(...pending);
  gallery.setAttribute("aria-busy", "true");
  $("draw-go").disabled = true;
  note($("draw-note"), "Drawing…");
  const start = performance.now();
  try {
    const body = { prompt, n, seed: number("seed"), cfg_weight: number("guidance"), temperature: number("temperature"), user: RATER };
    const reply = await json("POST", "/v1/images/generations", body);
    gallery.replaceChildren(...reply.data.map((item) => figure(item, prompt, samplesOf(reply))));
    remember("drawn", { ...reply, prompt });
    note($("draw-note"), `${reply.data.length} in ${((performance.now() - start) / 1000).toFixed(1)} s, at ${reply.size}`);
  } catch (error) {
    gallery.replaceChildren();
    note($("draw-note"), error.message, true);
  } finally {
    gallery.removeAttribute("aria-busy");
    $("draw-go").disabled = false;
  }
}

/** A picture as a file of the reply, or behind a link. */
function figure(item, prompt, request) {
  const node = copy("picture");
  const image = node.querySelector("img");
  image.src = item.b64_json ? `data:image/png;base64,${item.b64_json}` : local(item.url);
  image.alt = prompt;
  const seed = node.querySelector(".seed");
  seed.textContent = `seed ${item.seed}`;
  seed.addEventListener("click", () => {
    Object.assign($("prompt"), { value: prompt }).focus();
    $("seed").value = item.seed;
    $("n").value = 1;
  });
  node.querySelector(".ask").addEventListener("click", async () => {
    if (item.b64_json) show(image.src, prompt);
    else await take(image, prompt);
    $("question").focus();
  });
  Object.assign(node.querySelector(".save"), { href: image.src, download: `${prompt.replace(/\W+/g, "-").slice(0, 60)}-${item.seed}.png` });
  rate(node, item.sample_id, request);
  return node;
}

/** The same link on this page's own host, which a proxy may know by another name. */
function local(link) {
  const url = new URL(link, location.href);
  return url.pathname + url.search;
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
async function take(source, name = source.name || "pasted picture") {
  try {
    const bitmap = await createImageBitmap(source);
    const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    show(canvas.toDataURL("image/png"), name);
    note($("ask-note"), "");
  } catch {
    note($("ask-note"), `${source.name || "This"} is not a picture the browser can read.`, true);
  }
}

async function ask(event) {
  event.preventDefault();
  const question = $("question").value;
  const article = copy("answer");
  const reply = copy("reply");
  article.append(reply);
  article.querySelector(".question").textContent = question;
  if (picture) Object.assign(article.querySelector("img"), { src: picture, alt: pictureAlt, hidden: false });
  article.classList.add("busy");
  $("answers").prepend(article);
  const content = [...(picture ? [{ type: "image_url", image_url: { url: picture } }] : []), { type: "text", text: question }];
  const stop = new AbortController();
  $("ask-stop").onclick = () => stop.abort();
  $("ask-stop").hidden = false;
  $("ask-go").disabled = true;
  note($("ask-note"), "");
  try {
    const body = { model, messages: [{ role: "user", content }], stream: true, user: RATER };
    const response = await call("/v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal: stop.signal });
    let text = "";
    let head, sample;
    for await (const chunk of events(response)) {
      if (chunk.error) throw new Error(chunk.error.message);
      head = chunk;
      sample = chunk.choices[0]?.sample_id ?? sample;
      text += chunk.choices[0]?.delta.content ?? "";
      write(reply, text);
    }
    write(reply, text, true);
    const whole = { ...head, choices: [{ message: { content: text }, sample_id: sample }] };
    rate(reply, sample, samplesOf(whole));
    remember("asked", whole);
  } catch (error) {
    if (error.name !== "AbortError") note($("ask-note"), error.message, true);
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

function write(reply, text, done = false) {
  const { think, said } = split(text);
  const details = reply.querySelector("details");
  details.hidden = !think;
  // Open while there is nothing else to read.
  if (!details.dataset.settled) details.open = !said && !done;
  if (said) details.dataset.settled = "yes";
  reply.querySelector(".think").textContent = think;
  reply.querySelector(".said").textContent = said || (done ? "(no answer)" : "");
}

// --- history -------------------------------------------------------------------------------------------------------

const HISTORY = {
  drawn: { path: "/v1/images/generations", more: "More pictures", fill: fillDrawn },
  asked: { path: "/v1/chat/completions", more: "More answers", fill: fillAsked },
};

async function more(name) {
  const list = HISTORY[name];
  const button = $(`${name}-more`);
  button.disabled = true;
  try {
    const after = list.last ? `&after=${list.last}` : "";
    const page = await json("GET", `${list.path}?order=desc&limit=${PAGE}${after}`);
    list.last = page.last_id ?? list.last;
    list.open = true;
    button.textContent = list.more;
    button.hidden = !page.has_more;
    for (const item of page.data) {
      const node = entry(name, item);
      $(name).append(node);
      recall(samplesOf(item)).catch((error) => note(node.querySelector(":scope > .note"), error.message, true));
    }
    note($(`${name}-note`), $(name).childElementCount ? "" : "Nothing is kept yet.");
  } catch (error) {
    note($(`${name}-note`), error.message, true);
  } finally {
    button.disabled = false;
  }
}

/** Puts what was just made in front of the history, where that is open. */
function remember(name, item) {
  if (!HISTORY[name].open || !samplesOf(item).samples.length) return;
  $(name).prepend(entry(name, item));
  note($(`${name}-note`), "");
}

function entry(name, item) {
  const node = copy("entry");
  const date = new Date(item.created * 1000);
  const time = node.querySelector("time");
  time.dateTime = date.toISOString();
  time.textContent = date.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  const button = node.querySelector(".delete");
  button.addEventListener("click", () => sure(button, () => forget(node, HISTORY[name].path, samplesOf(item))));
  HISTORY[name].fill(node, item, samplesOf(item));
  return node;
}

function fillDrawn(node, { prompt, data }, request) {
  node.querySelector(".what").append(element("p", { className: "question", textContent: prompt }));
  const gallery = element("div", { className: "gallery" });
  gallery.append(...data.map((item) => figure(item, prompt, request)));
  node.querySelector(".note").before(gallery);
}

function fillAsked(node, { choices }, request) {
  const place = node.querySelector(".note");
  const asked = copy("conversation");
  asked.addEventListener("toggle", async () => {
    if (!asked.open || asked.dataset.read) return;
    try {
      const { data } = await json("GET", `/v1/chat/completions/${request.id}/messages`);
      asked.querySelector("div").replaceChildren(...data.flatMap(shown));
      asked.dataset.read = "yes";
      note(place, "");
    } catch (error) {
      note(place, error.message, true);
    }
  });
  node.querySelector(".what").append(asked);
  for (const { message, sample_id: sample } of choices) {
    const reply = copy("reply");
    place.before(reply);
    write(reply, message.content, true);
    rate(reply, sample, request);
  }
}

/** The parts of a message. */
function shown({ role, content_parts: parts }) {
  return parts.map((part) => part.type === "text"
    ? element("p", { className: "question", textContent: role === "user" ? part.text : `${role}: ${part.text}` })
    : element("img", { src: part.image_url.url, alt: "A picture asked about" }));
}

/** Does what is not lightly undone at the second click; a button that is left forgets the first. */
function sure(button, act, question = "Really delete?") {
  if (button.dataset.sure) return act();
  const { textContent, ariaLabel } = button;
  button.dataset.sure = "yes";
  button.textContent = button.ariaLabel = question;
  button.addEventListener("blur", () => {
    delete button.dataset.sure;
    Object.assign(button, { textContent, ariaLabel });
  }, { once: true });
}

async function forget(node, path, { id, samples }) {
  try {
    await json("DELETE", `${path}/${id}`);
    // The same samples may still be shown where they were made.
    for (const sample of samples) {
      for (const other of document.querySelectorAll(`[data-sample="${sample}"]`)) {
        other.querySelectorAll(".feedback, .correction, .thanks").forEach((part) => part.remove());
        delete other.dataset.sample;
      }
    }
    const next = node.nextElementSibling ?? node.previousElementSibling;
    node.remove();
    next?.querySelector(".delete").focus();
  } catch (error) {
    note(node.querySelector(":scope > .note"), error.message, true);
  }
}

// --- the page ------------------------------------------------------------------------------------------------------

function chips(id, texts, field) {
  $(id).append(...texts.map((text) => {
    const chip = element("button", { type: "button", textContent: text });
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
$("smooth").addEventListener("change", () => document.body.classList.toggle("smooth", $("smooth").checked));
for (const name in HISTORY) $(`${name}-more`).addEventListener("click", () => more(name));
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
