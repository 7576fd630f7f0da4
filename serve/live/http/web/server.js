// Requests to the server; a refusal is an error with a message for a person.

import { userError } from "./causes.js";

export async function request(url, options = {}) {
  const response = await fetch(url, options);
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  const gone = response.status >= 502 && response.status <= 504 ? "The server behind this address does not run" : "The server did not say why";
  const message = body.error || `${gone} (${response.status}). Try again in a moment.`;
  throw userError(message, { refused: true, reason: body.reason, status: response.status, after_s: Number(response.headers.get("Retry-After")) });
}

// A request that is opened by a key, with a body as JSON; `signal` gives it up.
export function ask(method, url, key, body, signal) {
  const headers = { Authorization: `Bearer ${key}`, ...(body === undefined ? {} : { "Content-Type": "application/json" }) };
  return request(url, { method, headers, signal, ...(body === undefined ? {} : { body: JSON.stringify(body) }) });
}
