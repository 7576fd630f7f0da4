// What every part of the page uses: its elements, and its one line for errors.

export const $ = (id) => document.getElementById(id);

export function fail(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
}
