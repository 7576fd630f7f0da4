// What several views of the studio have: messages, dialogs, fields, sound.

import { cause } from "../causes.js";
import { h, icon } from "../dom.js";

export const ICONS = {
  plus: "M12 5v14M5 12h14",
  play: "M8 5l11 7-11 7z",
  stop: "M7 7h10v10H7z",
  back: "M15 5l-7 7 7 7",
  edit: "M4 20l1-4L16 5l3 3L8 19z",
  remove: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  copy: "M9 9h10v11H9zM5 15V4h10",
};

export function problem(error) {
  const message = !error || error.left ? "" : typeof error === "string" ? error : cause(error);
  const line = document.getElementById("problem");
  line.textContent = message;
  line.hidden = !message;
  if (message) line.scrollIntoView({ block: "nearest" });
}

export function tell(message) {
  document.getElementById("news").textContent = message;
}

// A listener that shows what goes wrong, and is deaf while it works.
export function doing(work) {
  return async (event) => {
    event?.preventDefault?.();
    const button = event?.submitter ?? event?.currentTarget;
    problem("");
    if (button) button.disabled = true;
    try {
      await work(event);
    } catch (error) {
      problem(error);
    } finally {
      if (button) button.disabled = false;
    }
  };
}

export const iconButton = (name, label, onclick) => h("button", { type: "button", className: "icon-button", "aria-label": label, title: label, onclick }, icon(ICONS[name]));

// A label over a field, and a hint below.
export function field(label, control, hint = "") {
  const shown = hint && h("small", { textContent: hint });
  return h("label", { className: "field" }, h("span", { textContent: label }), control, shown || null);
}

// Closed by whatever `work` does, by Cancel or Escape; what `work` throws is shown in it. The first field has the focus.
export function dialog(title, content, { action, work, danger = false }) {
  const failure = h("p", { className: "failure", role: "alert", hidden: true });
  const cancel = h("button", { type: "button", className: "quiet", textContent: "Cancel", onclick: () => made.close() });
  const button = h("button", { type: "submit", className: danger ? "danger" : "primary", textContent: action });
  const form = h("form", { method: "dialog", onsubmit: submit }, h("h2", { textContent: title }), content, failure, h("div", { className: "row end" }, cancel, button));
  const made = h("dialog", { "aria-label": title, onclose: () => made.remove() }, form);
  async function submit(event) {
    event.preventDefault();
    button.disabled = true;
    try {
      await work();
      made.close();
    } catch (error) {
      failure.textContent = cause(error);
      failure.hidden = false;
    }
    button.disabled = false;
  }
  document.body.append(made);
  made.showModal();
  return made;
}

export const confirmed = (title, text, action, work) => dialog(title, h("p", { textContent: text }), { action, work, danger: true });

let playing = null; // {audio, button} of the sound that is heard

// A button that plays a sound, or stops it; `source` finds its address when it is wanted.
export function playButton(label, source) {
  const button = iconButton("play", label, doing(async () => {
    const mine = playing?.button === button;
    playing?.audio.pause();
    if (mine) return;
    button.classList.add("busy");
    try {
      const audio = new Audio(await source());
      audio.onpause = audio.onended = () => {
        button.replaceChildren(icon(ICONS.play));
        button.setAttribute("aria-pressed", "false");
        if (playing?.audio === audio) playing = null;
      };
      playing = { audio, button };
      await audio.play();
      button.replaceChildren(icon(ICONS.stop));
      button.setAttribute("aria-pressed", "true");
    } finally {
      button.classList.remove("busy");
    }
  }));
  return button;
}

export const spinner = (text) => h("p", { className: "waiting", role: "status" }, h("i", { "aria-hidden": "true" }), text);

export function empty(title, text, ...more) {
  return h("div", { className: "empty" }, h("h2", { textContent: title }), h("p", { textContent: text }), ...more);
}
