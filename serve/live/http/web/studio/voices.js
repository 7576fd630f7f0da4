// The voice of a character: one of the server's, or one of a description or a recording.

import { userError } from "../causes.js";
import { h, icon } from "../dom.js";
import { all, call, local, presetVoices, settled, upload } from "./api.js";
import { confirmed, dialog, field, iconButton, ICONS, playButton } from "./parts.js";

const MODEL = "eleven_ttv_v3"; // the API wants one named; there is one way of making voices here
const SHORTEST = 20;
const RIGHTS = "I am the speaker, or the speaker has allowed me to use this recording as a voice.";
const capitalised = (name) => name[0].toUpperCase() + name.slice(1);

// An element with `choice()`, as requests have it.
export async function voicesPart(chosen, current) {
  const [presets, custom] = await Promise.all([presetVoices(), all("/voices")]);
  const list = h("div", { className: "voices", role: "radiogroup", "aria-label": "Voice" });
  const part = h("div", {}, list, h("div", { className: "row" }, h("button", { type: "button", className: "quiet", onclick: design }, icon(ICONS.plus), "Design a voice"), h("button", { type: "button", className: "quiet", onclick: record }, icon(ICONS.plus), "From a recording")));
  part.choice = () => {
    const { value, dataset } = list.querySelector("input:checked");
    return dataset.custom ? { type: "custom", id: value } : { type: "runway-live-preset", presetId: value };
  };
  for (const voice of custom) addCustom(voice, chosen.id === voice.id);
  for (const name of presets) {
    const play = playButton(`Play ${capitalised(name)}`, async () => local((await call("POST", "/voices/preview", { voice: { type: "runway-live-preset", presetId: name } })).url));
    list.append(row(name, capitalised(name), "", chosen.presetId === name, play));
  }
  if (!list.querySelector("input:checked")) list.querySelector("input").checked = true; // the one it had was deleted
  return part;

  function row(value, name, about, checked, ...buttons) {
    const input = h("input", { type: "radio", name: "voice", value, checked });
    const text = h("span", {}, h("b", { textContent: name }), about ? h("small", { textContent: about, title: about }) : null);
    return h("div", { className: "voice" }, h("label", {}, input, text), ...buttons);
  }

  function addCustom(voice, checked) {
    if (voice.status === "FAILED") return;
    const about = voice.status === "PROCESSING" ? "Being made" : voice.basis ?? voice.description ?? "";
    const play = voice.previewUrl && playButton(`Play ${voice.name}`, async () => local(voice.previewUrl));
    const remove = iconButton("remove", `Delete the voice ${voice.name}`, () =>
      confirmed(`Delete the voice ${voice.name}?`, "Characters that have it speak with the server's own voice.", "Delete", async () => {
        await call("DELETE", `/voices/${voice.id}`);
        made.remove();
        if (!list.querySelector("input:checked")) list.querySelector("input").checked = true;
      }));
    const made = row(voice.id, voice.name, about, checked, ...(play ? [play] : []), remove);
    made.querySelector("input").dataset.custom = "true";
    list.prepend(made);
  }

  function design() {
    const name = h("input", { required: true, maxLength: 100, autocomplete: "off" });
    const prompt = h("textarea", { required: true, minLength: SHORTEST, maxLength: 1000, rows: 3, placeholder: "A calm older man with a deep voice who speaks slowly" });
    const play = playButton("Play what this sounds like", async () => local((await call("POST", "/voices/preview", { model: MODEL, prompt: prompt.value.trim() })).url));
    const content = [field("Name", name), field("Description", prompt, `At least ${SHORTEST} characters: pitch, pace, age, accent.`), h("div", { className: "row" }, play, h("span", { className: "hint", textContent: "Listen first" }))];
    dialog("Design a voice", content, { action: "Make it", work: async () => {
      const { id } = await call("POST", "/voices", { name: name.value.trim(), from: { type: "text", prompt: prompt.value.trim(), model: MODEL } });
      addCustom(usable(await settled(`/voices/${id}`, current)), true);
    } });
  }

  function record() {
    const name = h("input", { required: true, maxLength: 100, autocomplete: "off" });
    const file = h("input", { type: "file", accept: "audio/*", required: true });
    const rights = h("input", { type: "checkbox", required: true });
    const content = [field("Name", name), field("Recording", file, "Ten seconds or more of one person, without music. A server that clones voices makes a copy; others choose the nearest voice that they have, and say how near it is."), h("label", { className: "check" }, rights, RIGHTS)];
    dialog("A voice from a recording", content, { action: "Make it", work: async () => {
      const audio = await upload(file.files[0]);
      const { id } = await call("POST", "/voices", { name: name.value.trim(), from: { type: "audio", audio, rights: RIGHTS } });
      addCustom(usable(await settled(`/voices/${id}`, current)), true);
    } });
  }
}

// A voice that is ready; one that failed is deleted, and why is shown.
function usable(voice) {
  if (voice.status !== "FAILED") return voice;
  call("DELETE", `/voices/${voice.id}`).catch(() => {});
  throw userError(voice.failureReason);
}
