// What every part of the page uses: its elements, its one line for errors, and the server.

export const $ = (id) => document.getElementById(id);

export function fail(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
}

export async function request(path, options = {}) {
  const response = await fetch(path, options);
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw Object.assign(new Error(body.error || `The server answered ${response.status}.`), { refused: true });
  return body;
}
