// The page that a meeting bot's browser shows as its camera. It begins by itself: nobody can click in there.
// The bot's microphone is the sound of the meeting; what the page plays is the bot's voice.

import { Call, show as play } from "../call.js";
import { cause, media, userError } from "../causes.js";
import { ask } from "../server.js";

const LOOK_MS = 1000, AGAIN_MS = 3000;
const SOUND = { echoCancellation: false, noiseSuppression: false, autoGainControl: false }; // the service has done it
const asked = new URLSearchParams(location.search);
const path = `/v1/meetings/${encodeURIComponent(asked.get("meeting"))}/join`;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function say(message, state = document.body.dataset.state) {
  document.getElementById("status").textContent = message;
  document.body.dataset.state = state;
}

// The room, as soon as there is a place. A server that cannot be reached for a moment is asked again.
async function placed() {
  for (let fresh = true; ; ) {
    try {
      const found = await ask("POST", path, asked.get("key"), { fresh });
      if (found.status === "READY") return found.room;
      if (found.status === "ENDED") throw userError(found.failure, { refused: true });
      fresh = false;
      say("Waiting for a free place");
    } catch (error) {
      if (error.refused && !(error.status >= 500)) throw error;
      say(cause(error));
      await pause(AGAIN_MS);
    }
    await pause(LOOK_MS);
  }
}

function track(received) {
  const face = document.getElementById("face");
  if (received.kind === "video") face.onplaying = () => say("", "live");
  play(received, face).catch(() => say("This browser does not play sound by itself. Allow autoplay for this page."));
}

async function start() {
  const heard = media("microphone", { audio: SOUND }).catch((error) => say(cause(error)) ?? null);
  let call = null;
  const over = (message) => (call?.end(), say(message, "over"));
  try {
    const microphone = await heard, room = await placed();
    const on = { track, message: (event) => event.type === "ended" && over(event.message), lost: () => say("Connecting again"), over };
    call = new Call({ id: room.roomName, key: room.token, microphone, on });
    addEventListener("pagehide", () => call.end());
    await call.connect();
    if (!microphone) say("The sound of the meeting does not reach the character.");
  } catch (error) {
    if (!error.left) over(cause(error));
  }
}

start();
