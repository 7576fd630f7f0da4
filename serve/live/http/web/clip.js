// The last seconds of the picture as a file: two recorders by turns, so that one of them always holds enough.

import { $, fail } from "./page.js";

const SECONDS = 10; // at least, once so many were seen; twice as many at most
const TYPES = ["video/mp4;codecs=avc1", "video/mp4", "video/webm"];

let recorders = []; // the older one first
let timer = null;

export function record() {
  stop();
  if (!window.MediaRecorder) return;
  begin();
  timer = setInterval(begin, 1000 * SECONDS);
}

export function stop() {
  clearInterval(timer);
  for (const old of recorders) discard(old);
  recorders = [];
}

function begin() {
  const stream = $("face").srcObject, type = TYPES.find((name) => MediaRecorder.isTypeSupported(name));
  if (!stream?.active) return;
  const made = Object.assign(new MediaRecorder(stream, { mimeType: type, videoBitsPerSecond: 4_000_000 }), { parts: [] });
  made.ondataavailable = ({ data }) => made.parts.push(data);
  made.start();
  recorders.push(made);
  if (recorders.length > 2) discard(recorders.shift());
}

function discard(recorder) {
  recorder.onstop = null;
  if (recorder.state !== "inactive") recorder.stop();
}

// Download what the older recorder has, and go on.
export function save() {
  const oldest = recorders.shift();
  if (!oldest || oldest.state === "inactive") return fail("There is no clip yet, or this browser cannot record one.");
  oldest.onstop = () => {
    const file = new Blob(oldest.parts, { type: oldest.mimeType }), ending = /mp4/.test(file.type) ? "mp4" : "webm";
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(file), download: `world.${ending}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  };
  oldest.stop();
  if (!recorders.length) begin();
}
