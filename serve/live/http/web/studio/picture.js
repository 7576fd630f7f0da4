// The picture of a character: chosen, looked at, and shown as visitors will see it.

import { cause } from "../causes.js";
import { h } from "../dom.js";
import { request } from "../server.js";
import { local } from "./api.js";
import { spinner } from "./parts.js";

const TYPES = ["image/jpeg", "image/png", "image/webp"];
const MAX_BYTES = 5e6;
const HINT = "One face, from the front, mouth closed, in even light. The face should fill the oval.";

// An element with `file` (the picture that was chosen now, or null), `crops` and `status(avatar)`.
export function picturePart() {
  const shown = h("img", { alt: "", hidden: true });
  const oval = h("span", { className: "oval", "aria-hidden": "true" });
  const note = h("p", { className: "note", role: "status", textContent: HINT });
  const failure = h("p", { className: "failure", role: "alert", hidden: true });
  const input = h("input", { type: "file", accept: TYPES.join(), className: "out", "aria-label": "Picture file", onchange: () => take(input.files[0]) });
  const frame = h("div", { className: "frame" }, shown, oval);
  const pick = h("label", { className: "button" }, "Choose a picture", input);
  const crops = h("input", { type: "checkbox", checked: true, onchange: () => part.file && take(part.file) });
  const demos = h("div", { className: "demos", role: "group", "aria-label": "Or begin with one of these" });
  const state = h("div");
  const part = h("section", { className: "picture card", "aria-label": "Picture" }, frame, state, failure, note, h("div", { className: "row" }, pick),
    h("label", { className: "check" }, crops, "Cut out the face"), demos);
  Object.assign(part, { file: null, crops, status });

  function say(message, wrong) {
    failure.hidden = !wrong;
    note.hidden = wrong;
    (wrong ? failure : note).textContent = message;
  }

  async function take(file) {
    input.value = "";
    if (!file) return;
    if (!TYPES.includes(file.type)) return say(`${file.name} is no picture that can be used. Choose a JPEG, PNG or WebP file.`, true);
    if (file.size > MAX_BYTES) return say(`${file.name} has ${(file.size / 1e6).toFixed(1)} MB, must have at most 5 MB. Make it smaller.`, true);
    say("Looking for a face", false);
    try {
      const cut = await request("/v1/images", { method: "POST", body: file });
      part.file = file;
      picture(crops.checked ? cut.image : URL.createObjectURL(file), true);
      say(crops.checked ? (cut.note ?? "This is what visitors see.") : "The middle of the picture is used.", false);
      oval.hidden = crops.checked && !cut.note;
      part.dispatchEvent(new Event("change"));
    } catch (error) {
      say(cause(error), true);
    }
  }

  function picture(source, fresh = false) {
    shown.src = source;
    shown.hidden = false;
    oval.hidden = !fresh;
    state.replaceChildren();
  }

  // What has become of the picture of an avatar.
  function status(avatar) {
    state.replaceChildren(...(avatar.status === "PROCESSING" ? [spinner("Reading the picture")] : []));
    if (avatar.processedImageUri) picture(local(avatar.processedImageUri));
    if (avatar.status === "PROCESSING") state.replaceChildren(spinner("Reading the picture"));
    if (avatar.status === "FAILED") say(`${avatar.failureReason} Choose another picture.`, true);
    else say(avatar.status === "READY" ? "This is what visitors see." : HINT, false);
    oval.hidden = avatar.status === "READY";
    demos.hidden = true;
  }

  request("/v1/characters").then(({ characters }) => demos.append(...characters.map(({ name, image }) =>
    h("button", { type: "button", "aria-label": `Begin with the picture of ${name}`, onclick: async () => take(new File([await (await fetch(image)).blob()], `${name}.png`, { type: "image/png" })) },
      h("img", { src: image, alt: "", loading: "lazy" }))))).catch(() => {});
  for (const kind of ["dragover", "drop"]) part.addEventListener(kind, (event) => {
    event.preventDefault();
    if (kind === "drop") take(event.dataTransfer.files[0]);
  });
  return part;
}
