// The learning view: what users said became which versions, what the gate measured of each, which is live; and the same prompts
// drawn by the live version and by the one before. Uses nothing but the public interface, and app.js.
"use strict";

const ROUNDS = { every: 4000, shown: 50, seen: "" };
const ENDED = ["promoted", "refused", "failed", "cancelled"];
/** Pictures that are held against each other. */
const BESIDE = 4;

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const when = (seconds) => new Date(seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
const digits = (version) => version.slice(0, 12);

async function learned() {
  const [rounds, versions] = await Promise.all([json("GET", `/v1/rounds?limit=${ROUNDS.shown}`), json("GET", "/v1/versions")]);
  // What has not changed is left alone, with whatever is being clicked or read in it.
  const seen = JSON.stringify([rounds, versions]);
  if (seen === ROUNDS.seen) return;
  ROUNDS.seen = seen;
  $("rounds").replaceChildren(...rounds.data.map(round));
  $("versions").replaceChildren(...versions.data.map((card) => version(card, versions)));
  curve(rounds.data.toReversed());
  const before = versions.promotions.find(({ version }) => version !== versions.promotions[0]?.version);
  Object.assign($("beside-go"), { hidden: !before }).dataset.versions = [before?.version, versions.promotions[0]?.version].join();
  note($("learn-note"), rounds.data.length ? "" : "No round yet. A round learns from what was said since the last.");
}

/** One round: what it learned from, and what the gate said. */
function round({ status, created, candidate, report, id }) {
  const node = element("article", { className: `round ${status}` });
  const from = report?.learned_from;
  const verdict = report?.verdict;
  const lines = [
    from && `${from.pictures} pictures and ${from.answers} answers that were judged, ${from.corrections} corrections`,
    verdict && `${percent(verdict.gain.live)} before, ${percent(verdict.gain.candidate)} after, on ${verdict.gain.tasks} held-out tasks`,
    ...(verdict?.reasons ?? []),
    report?.error,
    from?.raters?.some((rater) => !rater.weight) && `not heard: ${from.raters.filter((rater) => !rater.weight).map((rater) => rater.rater).join(", ")}`,
  ];
  node.append(
    element("header", { textContent: `${when(created)} · ${status}${candidate ? ` · ${digits(candidate)}` : ""}` }),
    ...lines.filter(Boolean).map((line) => element("p", { className: "soft", textContent: line })),
  );
  if (!ENDED.includes(status)) {
    const button = element("button", { type: "button", className: "quiet", textContent: "Cancel" });
    button.addEventListener("click", () => act(() => json("POST", `/v1/rounds/${id}/cancel`, {})));
    node.append(button);
  }
  return node;
}

/** Share of the people who get a version that is put on trial from here. */
const TENTH = 0.1;

/** How a version on trial stands, or how its last trial ended. */
function trial({ status, share, until, standing, said }) {
  if (status !== "running") return [`Its trial: ${status}. ${said ?? ""}`];
  const mean = ({ mean, raters }) => (raters ? `${percent(mean)} (${raters} raters)` : "nothing yet");
  const head = `On trial with ${percent(share)} of the people, until ${when(until)} at the latest`;
  if (!standing) return [head];
  const { candidate, live, votes, beside, missing, against, limit } = standing;
  return [
    head,
    `liked: ${mean(candidate)}; the live version in the same time: ${mean(live)}`,
    `${votes} raters count so far, each beside ${beside} of the live version; ${missing} more are wanted. Evidence that it is worse: ${against.toFixed(1)} of ${limit}`,
  ];
}

/** One version, with what may be done with it. */
function version(card, { promotions }) {
  const node = element("article", { className: "version" });
  const origin = card.parent ? `from ${digits(card.parent)}` : "from outside";
  const gain = card.scores?.gain;
  const tried = card.trial?.status === "running";
  const state = card.live ? " · live" : tried ? " · on trial" : card.available ? "" : " · not kept";
  node.append(element("header", { textContent: `${digits(card.id)}${state}` }), element("p", {
    className: "soft",
    textContent: `${when(card.created)}, ${origin}${gain ? `, ${percent(gain.live)} → ${percent(gain.candidate)}` : ""}`,
  }));
  if (card.trial) node.append(...trial(card.trial).map((line) => element("p", { className: "soft", textContent: line })));
  const ways = card.live
    ? promotions.some(({ version }) => version !== card.id) ? [["rollback", "Take it back", {}]] : []
    : card.available ? [["promote", "Make it live", {}], tried ? ["rollback", "Withdraw it", {}] : ["promote", "Try it with a tenth", { share: TENTH }]] : [];
  for (const [way, name, body] of ways) {
    const button = element("button", { type: "button", textContent: name, ariaLabel: `${name}: ${digits(card.id)}` });
    button.addEventListener("click", () => sure(button, () => act(async () => {
      await json("POST", `/v1/versions/${card.id}/${way}`, body);
      // The server follows within a second.
      setTimeout(greet, 1500);
    }), `Really ${name.toLowerCase()}?`));
    node.append(button);
  }
  return node;
}

/** What the gate measured of each candidate, over rounds. */
function curve(rounds) {
  const points = rounds.map(({ report, status }) => ({ gain: report?.verdict?.gain, status })).filter(({ gain }) => gain);
  const place = $("learn-curve");
  place.hidden = !points.length;
  if (!points.length) return;
  const shares = points.flatMap(({ gain }) => [gain.live, gain.candidate]);
  const [least, most] = [Math.min(...shares) - 0.02, Math.max(...shares) + 0.02];
  const x = (at) => 40 + (at * 540) / Math.max(points.length - 1, 1);
  const y = (share) => 140 - (120 * (share - least)) / (most - least);
  const svg = (name, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text) node.textContent = text;
    return node;
  };
  const line = points.map(({ gain, status }, at) => `${x(at)},${y(status === "promoted" ? gain.candidate : gain.live)}`).join(" ");
  place.replaceChildren(
    ...[least + 0.02, most - 0.02].map((share) => svg("text", { x: 0, y: y(share) + 4, class: "label" }, percent(share))),
    svg("polyline", { points: line, class: "live" }),
    ...points.map(({ gain, status }, at) => {
      const dot = svg("circle", { cx: x(at), cy: y(gain.candidate), r: 5, class: status });
      dot.append(svg("title", {}, `${status}: ${percent(gain.live)} before, ${percent(gain.candidate)} after`));
      return dot;
    }),
  );
}

/** The same prompts and seeds by two versions. */
async function beside() {
  const versions = $("beside-go").dataset.versions.split(",");
  note($("learn-note"), "Drawing…");
  try {
    const rows = await Promise.all(versions.map(async (version) => {
      const row = element("div", { className: "row" });
      const drawn = await Promise.all(PROMPTS.slice(0, BESIDE).map((prompt) =>
        json("POST", "/v1/images/generations", { prompt, seed: 1, store: false, model: `${model}@${digits(version)}` })));
      row.append(element("p", { className: "soft", textContent: digits(version) }), ...drawn.map(({ data }, at) =>
        element("img", { src: `data:image/png;base64,${data[0].b64_json}`, alt: `${PROMPTS[at]}, by ${digits(version)}`, title: PROMPTS[at] })));
      return row;
    }));
    $("beside").replaceChildren(...rows);
    note($("learn-note"), "");
  } catch (error) {
    note($("learn-note"), error.message, true);
  }
}

/** Does something and shows what came of it. */
async function act(work) {
  try {
    await work();
    await learned();
  } catch (error) {
    note($("learn-note"), error.message, true);
  }
}

$("learn-go").addEventListener("click", () => act(() => json("POST", "/v1/rounds", {})));
$("beside-go").addEventListener("click", beside);
$("learning").addEventListener("toggle", () => {
  clearInterval(ROUNDS.timer);
  if (!$("learning").open) return;
  act(() => {});
  ROUNDS.timer = setInterval(() => act(() => {}), ROUNDS.every);
});
