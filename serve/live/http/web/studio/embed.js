// The line that puts a character on a page, and how its key is made.

import { h, icon } from "../dom.js";
import { field, ICONS, tell } from "./parts.js";

export function embedPart(id) {
  const origin = h("input", { type: "url", value: "https://www.example.com", spellcheck: false, autocomplete: "off", oninput: show });
  const key = h("input", { placeholder: "pub_...", spellcheck: false, autocomplete: "off", oninput: show });
  const command = h("pre", { tabIndex: 0, "aria-label": "Command that makes a key" }), line = h("pre", { tabIndex: 0, "aria-label": "Line for the page" });
  show();
  return h("div", { className: "embed" },
    field("Your page's address", origin, "Protocol and name: the key works on no other site."),
    h("p", { className: "hint", textContent: "1. On the server, make a publishable key for it:" }), copied(command),
    field("2. Enter the key that it shows", key), h("p", { className: "hint", textContent: "3. Put this line at the end of your page:" }), copied(line));

  function show() {
    let place = origin.value.trim();
    try {
      place = new URL(place).origin;
    } catch {} // it is still being written
    command.textContent = `python -m serve.keys name=site origins=[${place}]`;
    line.textContent = `<script src="${location.origin}/widget.js" data-key="${key.value.trim() || "pub_..."}" data-avatar="${id}"></script>`;
  }
}

function copied(text) {
  const label = h("span", { textContent: "Copy" });
  return h("div", { className: "copy" }, text, h("button", { type: "button", className: "quiet", async onclick() {
    try {
      await navigator.clipboard.writeText(text.textContent);
      label.textContent = "Copied";
      tell("Copied");
    } catch {
      getSelection().selectAllChildren(text); // to be copied by hand: pages without https may not
      label.textContent = "Selected";
    }
    setTimeout(() => (label.textContent = "Copy"), 1500);
  } }, icon(ICONS.copy), label));
}
