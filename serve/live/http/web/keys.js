// A world is walked through by keys, by buttons that are held, or by a pointer on the picture; and what that takes.

import { $ } from "./page.js";

// Keys of actions by name, the first choice first; others have the digits.
const KEYS = {
  forward: ["ArrowUp", "KeyW"], up: ["ArrowUp", "KeyW"], move_forward: ["ArrowUp", "KeyW"],
  back: ["ArrowDown", "KeyS"], backward: ["ArrowDown", "KeyS"], down: ["ArrowDown", "KeyS"], move_backward: ["ArrowDown", "KeyS"],
  turn_left: ["ArrowLeft", "KeyA"], turn_right: ["ArrowRight", "KeyD"],
  left: ["KeyA", "ArrowLeft"], right: ["KeyD", "ArrowRight"], move_left: ["KeyA", "ArrowLeft"], move_right: ["KeyD", "ArrowRight"],
  jump: ["Space"], fire: ["Space"], attack: ["Space"],
};
const SIDE = 24; // px of the small picture in which changes are seen
const REST_MS = 600; // without a key, after which the picture is as still as it gets
const UNSEEN_MS = 2000; // after which a key's effect is no longer waited for: against a wall nothing moves
const POINTER_MS = 40;

let send = () => {};
let names = []; // of actions that are pressed
let keys = {}; // these by the code of a key
let pointer = []; // names of x and y
let held = new Set(); // names that are pressed
let touched = null; // name of the action that the picture is held for
let place = null, waiting = null; // of the pointer, until it is sent
let times = []; // ms from key to picture, the latest
let pending = null; // {at, picture} of a key whose effect is not seen yet
let latest = null, noise = 1, released = 0;
let watching = 0; // the number of the next look at a frame

export function offer(actions, sender) {
  send = sender;
  [held, times, pending, latest, touched] = [new Set(), [], null, null, null];
  names = actions.filter(({ kind }) => kind === "discrete").map(({ name }) => name);
  pointer = actions.filter(({ kind }) => kind === "pointer").map(({ name }) => name);
  keys = assigned();
  $("keys").replaceChildren(...names.map(button));
  $("keys").classList.toggle("pad", ["Up", "Left", "Down", "Right"].every((way) => keys[`Arrow${way}`]));
  $("face").style.touchAction = "none"; // a finger moves what is seen, not the page
  $("face").cancelVideoFrameCallback?.(watching); // of the session before
  if (names.length + pointer.length) watching = $("face").requestVideoFrameCallback?.(look);
}

// Each action has a key of its own; keys that are left over are second ones.
function assigned() {
  const made = {}, digits = names.filter((name) => !KEYS[name]);
  for (const choice of [0, 1])
    for (const name of names) {
      const code = KEYS[name]?.[choice];
      if (code && !made[code]) made[code] = name;
    }
  digits.slice(0, 9).forEach((name, index) => (made[`Digit${index + 1}`] = name));
  return made;
}

function button(name) {
  const made = Object.assign(document.createElement("button"), { type: "button", name });
  const code = Object.keys(keys).filter((key) => keys[key] === name).map((key) => key.replace(/Key|Digit|Arrow/, ""));
  const key = Object.assign(document.createElement("kbd"), { textContent: code.join(" or ") });
  made.append(name.replaceAll("_", " "), key);
  made.dataset.way = Object.keys(keys).find((other) => keys[other] === name && other.startsWith("Arrow")) ?? "";
  made.setAttribute("aria-pressed", false);
  made.addEventListener("pointerdown", (event) => {
    made.setPointerCapture(event.pointerId);
    press(name, true);
  });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) made.addEventListener(end, () => press(name, false));
  made.addEventListener("contextmenu", (event) => event.preventDefault());
  return made;
}

// Whether the key belongs to an action.
export function key(event, down) {
  const name = keys[event.code];
  if (!name) return false;
  event.preventDefault();
  if (!event.repeat) press(name, down);
  return true;
}

function press(name, down) {
  if (held.has(name) === down) return;
  const now = performance.now();
  if (down && !held.size && !pending && latest && now - released > REST_MS) pending = { at: now, picture: latest };
  if (down) held.add(name);
  else held.delete(name);
  if (!held.size) released = now;
  $("keys").querySelector(`[name="${name}"]`)?.setAttribute("aria-pressed", down);
  send({ type: "action.set", action: { [name]: down ? 1 : 0 } });
}

// All keys as they are now, to a new connection: what the old one lost would stay pressed.
export function repeat() {
  if (names.length) send({ type: "action.set", action: Object.fromEntries(names.map((name) => [name, Number(held.has(name))])) });
}

// The picture is held: at its sides to turn, below to go back, else to go ahead. Null: it is let go.
export function hold(event) {
  const { left, top, width, height } = $("face").getBoundingClientRect();
  const x = event && (event.clientX - left) / width, y = event && (event.clientY - top) / height;
  const code = event && (x < 0.3 ? "ArrowLeft" : x > 0.7 ? "ArrowRight" : y > 0.75 ? "ArrowDown" : "ArrowUp");
  const name = pointer.length || !code ? null : (keys[code] ?? null);
  if (name === touched) return;
  const before = touched;
  touched = name;
  if (name) press(name, true);
  if (before) press(before, false);
}

export function releaseAll() {
  for (const name of [...held]) press(name, false);
}

export function point(event) {
  if (!pointer.length) return;
  const { left, top, width, height } = $("face").getBoundingClientRect();
  const between = (value) => Math.max(-1, Math.min(1, value));
  place = [between((2 * (event.clientX - left)) / width - 1), between((2 * (event.clientY - top)) / height - 1)];
  waiting ??= setTimeout(() => {
    waiting = null;
    send({ type: "action.set", action: Object.fromEntries(pointer.map((name, axis) => [name, place[axis]])) });
  }, POINTER_MS);
}

// ---- from a key to the picture that it changed ----

const small = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
small.canvas.width = small.canvas.height = SIDE;

function look(now, { presentationTime }) {
  const video = $("face");
  if (!video.srcObject) return;
  watching = video.requestVideoFrameCallback(look);
  small.drawImage(video, 0, 0, SIDE, SIDE);
  const picture = small.getImageData(0, 0, SIDE, SIDE).data;
  if (pending && distance(picture, pending.picture) > 3 * noise + 2) seen(presentationTime - pending.at);
  else if (pending && now - pending.at > UNSEEN_MS) pending = null;
  else if (latest && !held.size && now - released > REST_MS) noise += 0.1 * (distance(picture, latest) - noise);
  latest = picture;
}

function distance(one, other) {
  let sum = 0;
  for (let at = 0; at < one.length; at++) sum += Math.abs(one[at] - other[at]);
  return sum / one.length;
}

function seen(ms) {
  pending = null;
  times = [...times, ms].slice(-15);
  const sorted = [...times].sort((one, other) => one - other);
  $("n-action").textContent = `${Math.round(sorted[Math.floor(sorted.length / 2)])} ms`;
  $("n-action").dataset.count = Number($("n-action").dataset.count ?? 0) + 1;
  $("n-action").dataset.times = times.map(Math.round).join(" ");
}

addEventListener("blur", releaseAll);
