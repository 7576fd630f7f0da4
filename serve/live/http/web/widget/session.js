// A session of an avatar: asked for with a key, waited for until there is a place, and opened.

import { userError } from "../causes.js";
import { ask } from "../server.js";

const LOOK_MS = 2000; // between two looks; a key allows 60 requests a minute
const ID = /^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$/i;

export const chosen = (avatar) => (ID.test(avatar) ? { type: "custom", avatarId: avatar } : { type: "runway-preset", presetId: avatar });

// {id, key, server} of a call. waits: told when every place is taken. signal: gives it up, also on the server.
export async function opened({ server, key, avatar, waits, signal }) {
  const sessions = `${server}/v1/realtime_sessions`;
  const { id } = await ask("POST", sessions, key, { model: "gwm1_avatars", avatar: chosen(avatar) });
  try {
    const ready = await placed(`${sessions}/${id}`, key, waits, signal);
    const room = await ask("POST", `${sessions}/${id}/consume`, ready.sessionKey);
    return { id: room.roomName, key: room.token, server: server === location.origin ? server : room.url };
  } catch (error) {
    ask("DELETE", `${sessions}/${id}`, key).catch(() => {});
    throw error;
  }
}

async function placed(url, key, waits, signal) {
  for (let pause = 200; ; pause = Math.min(2 * pause, LOOK_MS)) {
    await new Promise((resolve) => setTimeout(resolve, pause));
    if (signal.aborted) throw userError("", { left: true });
    const found = await looked(url, key);
    if (found?.status === "READY") return found;
    if (found?.status === "FAILED") throw userError(found.failure);
    if (found && found.status !== "NOT_READY") throw userError("The session was ended. Start again.");
    if (found?.queued) waits();
  }
}

// Too many requests of one address, as of a whole office, are no reason to give up.
async function looked(url, key) {
  try {
    return await ask("GET", url, key);
  } catch (error) {
    if (error.status !== 429) throw error;
    await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(error.after_s || 5, 60)));
    return null;
  }
}
