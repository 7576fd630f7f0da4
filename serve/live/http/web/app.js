// The page of a live character: choose, connect, talk. No request to any other host.

import { Call, show as play } from "./call.js";
import { Captions } from "./captions.js";
import { cause, media, userError } from "./causes.js";
import * as clip from "./clip.js";
import { chosen, listCharacters } from "./choosing.js";
import * as controls from "./controls.js";
import * as keys from "./keys.js";
import { $, fail } from "./page.js";
import { request } from "./server.js";
import { Vision, canShowScreen, seeing } from "./vision.js";

const STATES = {
  idle: "Choose somebody to talk to",
  connecting: "Connecting",
  walking: "Walk",
  paused: "Paused",
  listening: "Listening",
  thinking: "Thinking",
  talking: "Talking",
};
const BACK_S = 2; // by a press of Back
const sounds = () => $("app").dataset.sound !== "false"; // a world has no sound

const captions = new Captions($("captions"));
let call = null;
let offer = null; // what the server looks at
const vision = new Vision({ send: (message) => send(message), changed: showSeeing, failed: fail });

function show(state) {
  $("app").dataset.state = state;
  $("status").querySelector("span").textContent = state === "idle" && !sounds() ? "Choose a place" : STATES[state];
}

// ---- calling ----

async function start() {
  fail("");
  show("connecting");
  $("start").disabled = true;
  let microphone = null;
  try {
    if (!window.RTCPeerConnection) throw userError("This browser has no WebRTC, or it is switched off. Use another browser.");
    if (sounds()) microphone = await media("microphone", { audio: audioWishes() });
    const session = await request("/v1/sessions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(chosen()),
    });
    call = new Call({ id: session.id, key: session.session_key, microphone, sound: sounds(), on: { track, message: receive, lost: () => show("connecting"), over: leave } });
    if (microphone) microphone.getAudioTracks()[0].onended = () => fail("The microphone is gone. Connect it and start again, or write.");
    $("face").poster = document.querySelector("#characters input:checked + .card img").src;
    $("choose").hidden = true;
    $("stage").hidden = $("numbers-switch").hidden = false;
    controls.offer(session.controls, send, { opened: !sounds() });
    if (!sounds()) keys.offer(session.controls.actions, send);
    $("numbers").hidden = sounds();
    $("numbers-switch").setAttribute("aria-expanded", !sounds());
    $(sounds() ? "mic" : "reset").focus();
    await call.connect();
  } catch (error) {
    if (!call) microphone?.getTracks().forEach((track) => track.stop());
    if (!error.left) leave(cause(error));
  }
}

function audioWishes() {
  const plain = new URLSearchParams(location.search).has("plain"); // tests want the sound as it is
  return { echoCancellation: !plain, noiseSuppression: !plain, autoGainControl: !plain };
}

function track(received) {
  play(received, received.kind === "video" ? $("face") : $("voice")).catch(() => fail("Press any key to hear the character."));
  if (!sounds()) clip.record();
}

const send = (message) => Boolean(call?.send(message));

function leave(message = "") {
  const ended = call;
  call = null;
  ended?.end();
  clip.stop();
  $("pause").setAttribute("aria-pressed", "false");
  vision.end();
  offer = null;
  offerVision();
  $("mic").setAttribute("aria-pressed", "true");
  captions.clear();
  $("stage").hidden = $("numbers-switch").hidden = true;
  $("face").srcObject = $("voice").srcObject = null;
  $("choose").hidden = false;
  $("start").disabled = false;
  if (ended) $("start").focus();
  show("idle");
  fail(message);
}

// ---- what the server says ----

function receive(event) {
  if (event.type === "state") {
    if (event.state === "thinking") captions.answer();
    show(sounds() ? event.state : paused() ? "paused" : "walking");
    if (!sounds()) keys.repeat();
    if (event.state !== "listening") fail(""); // what went wrong is over
  }
  if (event.type === "caption") captions.add(event.who, event.text);
  else if (event.type === "interrupted") captions.cut();
  else if (event.type === "latency") $("n-answer").textContent = `${(event.total_ms / 1000).toFixed(2)} s`;
  else if (event.type === "receipt") controls.receipt(event);
  else if (event.type === "numbers") $("n-lead").textContent = `${event.lead_ms} ms`;
  else if (event.type === "vision") {
    offer = event;
    vision.offered(event);
    offerVision();
  } else if (event.type === "vision.look") vision.look(event.source);
  else if (event.type === "vision.seen") showRead(event);
  else if (event.type === "error" || event.type === "notice") fail(event.message);
  else if (event.type === "ended") leave(event.message);
}

// ---- switches and numbers ----

function toggleMicrophone() {
  const track = call?.microphone?.getAudioTracks()[0];
  if (!track) return;
  track.enabled = !track.enabled;
  $("mic").setAttribute("aria-pressed", track.enabled);
}

function offerVision() {
  $("camera").hidden = !offer?.sources.includes("camera");
  $("screen").hidden = !offer?.sources.includes("screen") || !canShowScreen();
}

function toggleVision(source) {
  if (call && offer?.sources.includes(source)) vision.toggle(source);
}

// Nobody may forget that something is shown.
function showSeeing(shown) {
  for (const source of ["camera", "screen"]) $(source).setAttribute("aria-pressed", shown.includes(source));
  $("seeing").hidden = !shown.length;
  $("seeing").querySelector("span").textContent = seeing("The character", shown, offer ?? {});
  if (!shown.length) $("read").textContent = "";
  $("self").hidden = !shown.includes("camera");
  $("self").srcObject = vision.stream("camera") ?? null;
}

function showRead({ source, text, by }) {
  if (vision.shown.includes(source)) $("read").textContent = `${source === "screen" ? "Your screen" : "Your camera"}, by ${by}: ${text || "nothing"}`;
}

function toggleNumbers() {
  const hidden = !$("numbers").hidden;
  $("numbers").hidden = hidden;
  $("numbers-switch").setAttribute("aria-expanded", !hidden);
}

function pause(still) {
  if (!call || sounds() || !send({ type: "stream.pause", paused: still })) return;
  $("pause").setAttribute("aria-pressed", still);
  show(still ? "paused" : "walking");
}

const paused = () => $("pause").getAttribute("aria-pressed") === "true";

function goBack() {
  if (call && !sounds()) controls.goBack(BACK_S);
}

function reset() {
  if (call && !sounds()) send({ type: "stream.reset" });
}

async function measure() {
  if (call?.connection?.connectionState !== "connected") return;
  for (const report of (await call.connection.getStats()).values()) {
    if (report.type === "inbound-rtp" && report.kind === "video") {
      $("n-fps").textContent = `${report.framesPerSecond ?? 0} fps`;
      $("n-freezes").textContent = report.freezeCount ?? 0;
    }
    if (report.type === "candidate-pair" && report.nominated && report.currentRoundTripTime !== undefined)
      $("n-network").textContent = `${Math.round(1000 * report.currentRoundTripTime)} ms`;
  }
}

$("start").addEventListener("click", start);
$("leave").addEventListener("click", () => leave());
$("mic").addEventListener("click", toggleMicrophone);
$("camera").addEventListener("click", () => toggleVision("camera"));
$("screen").addEventListener("click", () => toggleVision("screen"));
$("controls-switch").addEventListener("click", controls.toggle);
$("numbers-switch").addEventListener("click", toggleNumbers);
$("pause").addEventListener("click", () => pause(!paused()));
$("back").addEventListener("click", goBack);
$("reset").addEventListener("click", reset);
$("clip").addEventListener("click", () => clip.save());
for (const kind of ["pointerdown", "pointermove"]) {
  $("face").addEventListener(kind, (event) => {
    keys.point(event);
    if (!call || sounds() || !event.buttons) return;
    if (kind === "pointerdown") $("face").setPointerCapture(event.pointerId);
    keys.hold(event);
  });
}
for (const kind of ["pointerup", "pointercancel"]) $("face").addEventListener(kind, () => keys.hold(null));
$("face").addEventListener("resize", () => { // frames may be wide or tall
  const { videoWidth: width, videoHeight: height, parentElement: picture, style } = $("face");
  picture.style.aspectRatio = `${width} / ${height}`;
  style.objectFit = width === height ? "cover" : "contain";
});
$("write").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("words").value.trim();
  if (!text || !send({ type: "text", text })) return;
  captions.add("user", text);
  $("words").value = "";
});
document.addEventListener("keydown", (event) => {
  if ($("voice").paused && $("voice").srcObject) $("voice").play().then(() => fail("")).catch(() => {});
  if (event.target.matches("textarea, input:not([type=radio], [type=range])") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (call && !sounds() && keys.key(event, true)) return;
  if (event.key === "m") toggleMicrophone();
  else if (event.key === "v") toggleVision("camera");
  else if (event.key === "s") toggleVision("screen");
  else if (event.key === "n") toggleNumbers();
  else if (event.key === "c") controls.toggle();
  else if (event.key === "r") reset();
  else if (event.key === "p") pause(!paused());
  else if (event.key === "b") goBack();
  else if (event.key === "k" && call && !sounds()) clip.save();
  else if (event.key === "Escape" && call) leave();
});
document.addEventListener("keyup", (event) => call && !sounds() && keys.key(event, false));
window.addEventListener("pagehide", () => call && leave());
setInterval(measure, 1000);
listCharacters().then(() => call || show("idle")).catch((error) => fail(cause(error)));
