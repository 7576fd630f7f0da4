// One character: made, changed, talked to, embedded, deleted.

import { userError } from "../causes.js";
import { h, icon } from "../dom.js";
import { AvatarElement } from "../widget/element.js";
import { call, key, settled, upload } from "./api.js";
import { documentsPart } from "./documents.js";
import { embedPart } from "./embed.js";
import { confirmed, doing, field, ICONS, problem, tell } from "./parts.js";
import { picturePart } from "./picture.js";
import { toolsPart } from "./tools.js";
import { voicesPart } from "./voices.js";

const NEW = { name: "", personality: "", startScript: null, voice: { type: "runway-live-preset", presetId: "clara" }, documentIds: [], tools: [], vision: "every_second" };
const PERSONALITY = "Who it is, how it speaks, what it knows and what it should not do. Such as: You are Vera, who runs a small bakery. You are warm and brief, and answer in one or two sentences.";

export async function editor(id, current) {
  const isNew = id === "new";
  const avatar = isNew ? NEW : await call("GET", `/avatars/${id}`);
  const picture = picturePart();
  const name = h("input", { name: "name", required: true, maxLength: 50, value: avatar.name, autocomplete: "off" });
  const personality = h("textarea", { name: "personality", required: true, maxLength: 10000, rows: 6, value: avatar.personality });
  const greeting = h("textarea", { name: "greeting", maxLength: 2000, rows: 2, value: avatar.startScript ?? "", placeholder: "Hello! What can I do for you?" });
  const [voices, documents] = await Promise.all([voicesPart(avatar.voice, current), documentsPart(avatar.documentIds)]);
  const tools = toolsPart(avatar.tools);
  const vision = visionPart(avatar.vision);
  const title = h("h1", { textContent: isNew ? "New character" : avatar.name });
  const save = h("button", { type: "submit", className: "primary", textContent: isNew ? "Create" : "Save" });

  const form = h("form", { className: "fields", onsubmit: doing(store) },
    section("Character", "", field("Name", name), field("Personality", personality, PERSONALITY), field("Greeting", greeting, "What it says when somebody comes. Empty: it waits to be spoken to.")),
    section("Voice", "Press play to hear one.", voices),
    section("Documents", "What it answers from. Plain text or Markdown.", documents),
    section("Tools", "What it may do: act on the page that it is on, or ask a program of yours. Offline, rules call a tool whose words a question has; a language model (llm=openai) calls it by what is meant.", tools),
    section("Vision", "What visitors show is seen while they switch their camera or screen on, and never before.", vision),
    h("div", { className: "save" }, h("span", { className: "hint", textContent: isNew ? "The picture is read when you press Create." : "Changes hold for the next conversation." }), save));
  const side = h("div", { className: "side" }, picture);
  if (!isNew) {
    side.append(talkPart(id, picture));
    form.append(section("On a page of yours", "", embedPart(id)), section("Delete", "Past conversations stay.", h("button", { type: "button", className: "danger", textContent: `Delete ${avatar.name}`, onclick: remove })));
    watch(avatar);
  }
  return h("section", {}, h("div", { className: "heading" }, h("a", { className: "icon-button button", href: "#/characters", "aria-label": "Back to all characters" }, icon(ICONS.back)), title), h("div", { className: "editor" }, side, form));

  async function store() {
    if (isNew && !picture.file) {
      picture.scrollIntoView({ block: "center" });
      throw userError("A picture is missing. Choose one, or begin with one of those that are shown.");
    }
    const body = { name: name.value.trim(), personality: personality.value.trim(), startScript: greeting.value.trim() || null, voice: voices.choice(), documentIds: documents.ids(), tools: tools.list(), vision: vision.choice() };
    if (picture.file) Object.assign(body, { referenceImage: await upload(picture.file), imageProcessing: picture.crops.checked ? "optimize" : "none" });
    const stored = await call(isNew ? "POST" : "PATCH", isNew ? "/avatars" : `/avatars/${id}`, body);
    tell(`${stored.name} is saved.`);
    if (isNew) return location.assign(`#/characters/${stored.id}`);
    title.textContent = stored.name;
    picture.file = null;
    flash(save, "Saved");
    watch(stored);
  }

  function watch(now) {
    picture.status(now);
    if (now.status === "PROCESSING") settled(`/avatars/${id}`, current, picture.status).catch(problem);
  }

  function remove() {
    confirmed(`Delete ${avatar.name}?`, "The character, its picture and its settings are gone. Pages that it is embedded in show an error.", "Delete", async () => {
      await call("DELETE", `/avatars/${id}`);
      tell(`${avatar.name} is deleted.`);
      location.assign("#/characters");
    });
  }
}

// How often it looks at what visitors show.
function visionPart(mode) {
  const sees = h("input", { type: "checkbox", name: "sees", checked: mode !== "off", onchange: () => (asked.disabled = !sees.checked) });
  const asked = h("input", { type: "checkbox", name: "asked", checked: mode === "on_request", disabled: mode === "off" });
  const part = h("div", {}, check(sees, "It may look at what visitors show"), check(asked, "Only when it is asked to: one picture each time"));
  part.choice = () => (!sees.checked ? "off" : asked.checked ? "on_request" : "every_second");
  return part;
}

const check = (input, text) => h("label", { className: "check" }, input, h("span", { textContent: text }));

function section(title, hint, ...content) {
  return h("fieldset", { className: "card" }, h("legend", { textContent: title }), hint ? h("p", { className: "hint", textContent: hint }) : null, ...content);
}

function flash(button, text) {
  const before = button.textContent;
  button.textContent = text;
  setTimeout(() => (button.textContent = before), 1500);
}

// The widget itself, with the studio's key, in the place of the picture.
function talkPart(id, picture) {
  const place = h("div", { className: "talk", hidden: true });
  const button = h("button", { type: "button", className: "wide", textContent: "Try it", "aria-expanded": "false", onclick() {
    const opens = place.hidden;
    place.replaceChildren(...(opens ? [Object.assign(new AvatarElement(), { key: key(), avatar: id, place: "inline" })] : []));
    place.hidden = !opens;
    picture.hidden = opens;
    button.textContent = opens ? "Back to the picture" : "Try it";
    button.setAttribute("aria-expanded", opens);
  } });
  return h("div", { className: "try" }, place, button);
}
