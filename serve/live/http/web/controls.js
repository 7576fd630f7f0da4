// Changes of the stream while one watches: a prompt, actions, a picture to go towards, a step back. Each shows the receipt that the server gives.

import { cause } from "./causes.js";
import { $ } from "./page.js";
import { request } from "./server.js";

const WHEN = { "stream.rewind": "Back at", "keyframe.set": "Seen at" }; // of a receipt; otherwise "Holds from"
const SEND_MS = 50; // between two states of the sliders; the server takes 30 changes a second

let send = () => {}; // hands a message to the server
let limits = null; // {prompt, actions, code, keyframes, rewind_chunks, chunk_s} of this session
let sliding = []; // actions that are set by a slider
let values = {}; // of the actions, by name
let waiting = null; // the timer of the next state of the sliders
const asked = {}; // the id of the latest change of each type; receipts of older ones are not shown
let count = 0;

// What this session can do; controls for the rest stay hidden, and all of them until they are asked for where `opened` is false:
// they would cover what is said.
export function offer(controls, sender, { opened }) {
  [limits, send, values] = [controls, sender, {}];
  sliding = limits.actions.filter(({ kind }) => kind === "continuous");
  $("prompt-form").hidden = !limits.prompt;
  $("actions").hidden = !(sliding.length + limits.code.length);
  $("code").hidden = !limits.code.length;
  $("keyframe-form").hidden = !limits.keyframes;
  $("rewind-form").hidden = !limits.rewind_chunks;
  sliders();
  const seconds = $("seconds");
  Object.assign(seconds, { min: 1, max: limits.rewind_chunks, step: 1, value: Math.ceil(limits.rewind_chunks / 2) });
  showSeconds();
  for (const name of ["prompt.set", "action.set", "keyframe.set", "stream.rewind"]) note(name, "");
  $("back").hidden = !limits.rewind_chunks;
  const first = limits.prompt || sliding.length || limits.keyframes;
  $("controls-switch").hidden = !(first || limits.code.length || limits.rewind_chunks);
  show(Boolean(opened && first));
}

// By about so many seconds, or as far as the server can.
export function goBack(seconds) {
  const chunks = limits && Math.min(limits.rewind_chunks, Math.round(seconds / limits.chunk_s));
  if (chunks) ask("stream.rewind", { chunks });
}

export function show(open) {
  $("controls").hidden = !open;
  $("controls-switch").setAttribute("aria-expanded", open);
}

export const toggle = () => limits && show($("controls").hidden);

// A receipt, shown beside the control that asked for it.
export function receipt({ of, id, accepted, chunk, media_s, reason }) {
  if (id !== asked[of]) return;
  note(of, accepted ? `${WHEN[of] ?? "Holds from"} ${media_s.toFixed(2)} s (chunk ${chunk})` : reason, accepted ? "accepted" : "refused");
}

function ask(type, fields) {
  asked[type] = `${type}-${++count}`;
  const sent = send({ type, id: asked[type], ...fields });
  note(type, sent ? "Sent" : "Not connected. Try again in a moment.", sent ? "sent" : "refused");
}

function note(type, text, state = "") {
  const output = document.querySelector(`#controls output[data-of="${type}"]`);
  Object.assign(output, { textContent: text, className: state });
}

function sliders() {
  $("sliders").replaceChildren(...sliding.map(slider));
  $("code-sliders").replaceChildren(...limits.code.map(slider));
}

function slider({ name, minimum, maximum, default: initial }) {
  const label = Object.assign(document.createElement("label"), { className: "slider" });
  const title = Object.assign(document.createElement("span"), { textContent: name.replaceAll("_", " ") });
  const range = { min: Math.max(minimum, -1), max: Math.min(maximum, 1), step: 0.05, value: initial };
  const input = Object.assign(document.createElement("input"), { type: "range", name, ...range });
  const value = Object.assign(document.createElement("span"), { className: "value", textContent: initial.toFixed(2) });
  value.setAttribute("aria-hidden", "true"); // the slider says it
  input.addEventListener("input", () => {
    values[name] = input.valueAsNumber;
    value.textContent = input.valueAsNumber.toFixed(2);
    waiting ??= setTimeout(act, SEND_MS);
  });
  label.append(title, input, value);
  return label;
}

function act() {
  waiting = null;
  ask("action.set", { action: values });
}

function release() {
  clearTimeout(waiting);
  [waiting, values] = [null, {}];
  sliders();
  ask("action.set", { action: null });
}

// A data channel has no room for a picture: it is uploaded first.
async function setKeyframe(file, seconds) {
  note("keyframe.set", "Sending the picture", "sent");
  try {
    const { key, note: missing } = await request("/v1/images", { method: "POST", body: file });
    if (missing) note("keyframe.set", "No face was found. Take a picture that shows it from the front.", "refused");
    else ask("keyframe.set", { image: key, in_s: seconds });
  } catch (error) {
    note("keyframe.set", cause(error), "refused");
  }
}

function showSeconds() {
  $("seconds-shown").textContent = `${(limits.chunk_s * $("seconds").valueAsNumber).toFixed(2)} s`;
}

$("seconds").addEventListener("input", showSeconds);
$("release").addEventListener("click", release);
$("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("prompt-form").requestSubmit();
});
$("prompt-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("prompt").value.trim();
  if (text) ask("prompt.set", { text });
});
$("keyframe-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const [file] = $("keyframe").files;
  if (file) setKeyframe(file, $("in-s").valueAsNumber);
  else note("keyframe.set", "Choose a picture first.", "refused");
});
$("rewind-form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask("stream.rewind", { chunks: $("seconds").valueAsNumber });
});
