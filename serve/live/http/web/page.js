// What every part of the page uses: its elements, its one line for errors, and the server.

import { userError } from "./causes.js";

export const $ = (id) => document.getElementById(id);

export function fail(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
}

export async function request(path, options = {}) {
  const response = await fetch(path, options);
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  const gone = response.status >= 502 && response.status <= 504 ? "The server behind this address does not run" : "The server did not say why";
  throw userError(body.error || `${gone} (${response.status}). Try again in a moment.`, { refused: true, reason: body.reason });
}
