// What the visitor shows the character, from the click until the next one: of camera and screen a picture a second each, or one when the server asks.

import { cause, media, userError } from "./causes.js";

const EVERY_MS = 1000;
const SOURCES = { camera: { number: 0, longest: 640 }, screen: { number: 1, longest: 1280 } };
const PICTURE_BYTES = 190000; // of one message; the server takes 200,000
const QUALITIES = [0.75, 0.5, 0.3];

export const canShowScreen = () => Boolean(navigator.mediaDevices?.getDisplayMedia);

export class Vision {
  #shown = {}; // source: {stream, video, timer}
  #mode = "every_second"; // or "on_request"

  // send: puts a message or bytes on the call. changed: called with the names of what is shown. failed: with a sentence.
  constructor({ send, changed, failed }) {
    Object.assign(this, { send, changed, failed });
  }

  get shown() {
    return Object.keys(this.#shown);
  }

  // What the server looks at, and how often; it asks again when the connection is a new one.
  offered({ mode }) {
    this.#mode = mode;
    for (const source of this.shown) this.send({ type: "vision.on", source });
  }

  // The server asks for one picture.
  look(source) {
    if (this.#shown[source]) this.#send(source);
  }

  stream(source) {
    return this.#shown[source]?.stream;
  }

  async toggle(source) {
    if (this.#shown[source]) return this.hide(source);
    try {
      await this.#show(source);
    } catch (error) {
      if (error.name === "NotAllowedError" && source === "screen") return; // the visitor has closed the question
      this.failed(cause(error));
    }
  }

  hide(source) {
    const shown = this.#shown[source];
    if (!shown) return;
    delete this.#shown[source];
    clearInterval(shown.timer);
    shown.stream.getTracks().forEach((track) => track.stop());
    shown.video.srcObject = null;
    this.send({ type: "vision.off", source });
    this.changed(this.shown);
  }

  end() {
    for (const source of this.shown) this.hide(source);
  }

  async #show(source) {
    const stream = source === "camera" ? await media("camera", { video: { width: { ideal: SOURCES.camera.longest } } }) : await screen();
    const video = Object.assign(document.createElement("video"), { srcObject: stream, muted: true, playsInline: true });
    stream.getVideoTracks()[0].onended = () => this.hide(source); // by the browser's own button
    const playing = video.play().catch(() => {});
    this.#shown[source] = { stream, video, playing, timer: this.#mode === "every_second" && setInterval(() => this.#send(source), EVERY_MS) };
    this.send({ type: "vision.on", source }); // before the page says so: a question may follow at once
    this.changed(this.shown);
    if (this.#mode === "every_second") this.#send(source);
  }

  async #send(source) {
    const shown = this.#shown[source];
    if (!shown || shown.busy) return;
    shown.busy = true;
    await shown.playing; // else there is no picture yet
    const blob = shown.video.videoWidth ? await compressed(shown.video, SOURCES[source].longest) : null;
    const bytes = blob && (await new Blob([new Uint8Array([SOURCES[source].number]), blob]).arrayBuffer());
    shown.busy = false;
    if (bytes && this.#shown[source] === shown) this.send(bytes); // at once, so that nothing follows vision.off
  }
}

async function screen() {
  if (!canShowScreen()) throw userError("This browser cannot share a screen. Use it on a computer.");
  return navigator.mediaDevices.getDisplayMedia({ video: { frameRate: { max: 5 } }, audio: false });
}

// A JPEG that fits a message, or null.
async function compressed(video, longest) {
  const scale = Math.min(1, longest / Math.max(video.videoWidth, video.videoHeight));
  const canvas = Object.assign(document.createElement("canvas"), { width: Math.round(scale * video.videoWidth), height: Math.round(scale * video.videoHeight) });
  const brush = canvas.getContext("2d");
  brush.imageSmoothingQuality = "high"; // small letters stay readable
  brush.drawImage(video, 0, 0, canvas.width, canvas.height);
  for (const quality of QUALITIES) {
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", quality));
    if (blob && blob.size <= PICTURE_BYTES) return blob;
  }
  return null;
}

// What the page says while something is shown.
export function seeing(name, shown, { by, mode } = {}) {
  if (!shown.length) return "";
  const how = by === "model" ? "" : ` (fallback, as no vision model is here: ${shown.map((source) => (source === "screen" ? "reads its text" : "reads your expression")).join(", ")})`;
  return `${name} ${mode === "on_request" ? "looks, when you ask, at" : "sees"} your ${shown.join(" and your ")}${how}`;
}
