// All characters, as cards.

import { h, icon } from "../dom.js";
import { all, local, settled } from "./api.js";
import { empty, ICONS, problem } from "./parts.js";

const STATES = { PROCESSING: "Reading the picture", READY: "", FAILED: "The picture cannot be used" };

export async function characters(_, current) {
  const found = await all("/avatars");
  const heading = h("div", { className: "heading" }, h("h1", { textContent: "Characters" }), h("a", { className: "button primary", href: "#/characters/new" }, icon(ICONS.plus), "New character"));
  if (!found.length) {
    const first = h("a", { className: "button primary", href: "#/characters/new", textContent: "Make the first one" });
    return h("section", {}, h("h1", { className: "out", textContent: "Characters" }), empty("Nobody is here yet", "Give a picture a voice and a personality, and talk to it a moment later.", first));
  }
  return h("section", {}, heading, h("ul", { className: "cards" }, found.map((avatar) => card(avatar, current))));
}

function card(avatar, current) {
  const picture = h("div", { className: "thumb" });
  const state = h("span", { className: "state" });
  const show = (now) => {
    const image = now.processedImageUri && h("img", { src: local(now.processedImageUri), alt: "", loading: "lazy" });
    picture.replaceChildren(...(image ? [image] : [h("span", { textContent: avatar.name.slice(0, 1) })]));
    state.textContent = STATES[now.status];
    state.hidden = now.status === "READY";
    state.className = `state ${now.status.toLowerCase()}`;
  };
  show(avatar);
  if (avatar.status === "PROCESSING") settled(`/avatars/${avatar.id}`, current, show).catch(problem);
  const about = h("span", { className: "about", textContent: avatar.personality });
  return h("li", {}, h("a", { className: "card", href: `#/characters/${avatar.id}` }, picture, h("strong", { textContent: avatar.name }), about, state));
}
