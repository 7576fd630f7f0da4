// The server's REST with the person's API key, which is kept for as long as the tab is open.

import { userError } from "../causes.js";
import { ask, request } from "../server.js";

const PLACE = "gwm.key";
const PAGE = 100;

export const key = () => sessionStorage.getItem(PLACE) ?? "";
export const remember = (text) => sessionStorage.setItem(PLACE, text);
export const forget = () => sessionStorage.removeItem(PLACE);

export async function call(method, path, body) {
  try {
    return await ask(method, `/v1${path}`, key(), body);
  } catch (error) {
    if (error.status === 401) {
      forget();
      dispatchEvent(new CustomEvent("signed-out", { detail: error.message }));
    }
    throw error;
  }
}

// Every row of a list.
export async function all(path) {
  const rows = [];
  for (let cursor = ""; cursor !== null; ) {
    const page = await call("GET", `${path}?limit=${PAGE}${cursor && `&cursor=${encodeURIComponent(cursor)}`}`);
    rows.push(...page.data);
    cursor = page.nextCursor;
  }
  return rows;
}

// Where a file is afterwards, as requests name it.
export async function upload(file) {
  const { runwayUri, uploadUrl, fields } = await call("POST", "/uploads", { filename: file.name || "picture", type: "ephemeral" });
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  form.append("file", file);
  await request(local(uploadUrl), { method: "POST", body: form });
  return runwayUri;
}

// The same on the server that this page is from, by whichever name it calls itself.
export const local = (url) => url && new URL(url, location.href).pathname;

let presets = null; // of voices; asked for once

export async function presetVoices() {
  const { components } = await (presets ??= request("/openapi.json"));
  return components.schemas.PresetVoice.properties.presetId.enum;
}

// Asks again and again until there is nothing more to wait for, or nobody is interested any more.
export async function settled(path, interested, seen = () => {}) {
  while (interested()) {
    const found = await call("GET", path);
    seen(found);
    if (found.status !== "PROCESSING") return found;
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  throw userError("", { left: true });
}
