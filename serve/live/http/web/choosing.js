// Whom to talk to: one of the server's characters, or a picture of one's own.

import { cause } from "./causes.js";
import { $, fail } from "./page.js";
import { request } from "./server.js";

let choice = { character: null, image: null };

export const chosen = () => choice;

function card(name, content, value) {
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "radio", name: "character", value });
  const frame = Object.assign(document.createElement("span"), { className: "card" });
  const title = Object.assign(document.createElement("span"), { className: "name", textContent: name });
  frame.append(content, title);
  label.append(input, frame);
  return { label, input, frame, title };
}

function image(source, name) {
  return Object.assign(document.createElement("img"), { src: source, alt: name, width: 160, height: 160 });
}

export async function listCharacters() {
  const { characters, sound } = await request("/v1/characters");
  $("app").dataset.sound = sound;
  if (!sound) {
    document.title = "gwm: walk through a world";
    $("choose-title").textContent = "Where would you like to begin?";
    $("start").textContent = "Walk";
  }
  for (const { key, name, image: source } of characters) {
    const { label, input } = card(name, image(source, ""), key);
    input.addEventListener("change", () => choose({ character: key, image: null }));
    $("characters").append(label);
  }
  $("characters").append(uploadCard(characters[0].key));
  $("characters").querySelector("input").click();
}

function choose(made) {
  choice = made;
  $("start").disabled = false;
  fail("");
}

function uploadCard(character) {
  const plus = Object.assign(document.createElement("span"), { className: "plus", textContent: "+" });
  plus.setAttribute("aria-hidden", "true");
  const { label, input, frame } = card("Your picture", plus, "upload");
  const file = Object.assign(document.createElement("input"), { type: "file", accept: "image/jpeg,image/png,image/webp", hidden: true });
  file.id = "file";
  const pick = () => file.click();
  input.addEventListener("click", pick);
  file.addEventListener("change", async () => {
    if (!file.files.length) return;
    $("note").textContent = $("app").dataset.sound === "true" ? "Looking for a face" : "Sending";
    try {
      const uploaded = await request("/v1/images", { method: "POST", body: file.files[0] });
      frame.replaceChild(image(uploaded.image, "Your picture"), frame.firstChild);
      input.checked = true;
      choose({ character, image: uploaded.key });
      $("note").textContent = uploaded.note || "";
    } catch (error) {
      $("note").textContent = "";
      fail(cause(error));
    }
    file.value = "";
  });
  label.append(file);
  return label;
}
