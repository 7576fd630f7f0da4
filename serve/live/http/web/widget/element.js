// The element that a page embeds: a button with a face, and the conversation that it opens. Its styles are its own.

import { Call, show } from "../call.js";
import { Captions } from "../captions.js";
import { cause, media, userError } from "../causes.js";
import { h, icon } from "../dom.js";
import { ask } from "../server.js";
import { Vision, canShowScreen, seeing } from "../vision.js";
import { act } from "./actions.js";
import { opened } from "./session.js";

const HOME = new URL("..", import.meta.url).href.replace(/\/$/, "");
const STATES = {
  idle: "",
  connecting: "Connecting",
  queued: "Waiting for a free place",
  listening: "Listening",
  thinking: "Thinking",
  talking: "Talking",
  ended: "Ended",
  error: "Not connected",
};
const LIVE = ["listening", "thinking", "talking"];
const ICONS = {
  chat: "M4 5h16v11H9l-5 4V5z",
  close: "M6 6l12 12M18 6L6 18",
  microphone: "M12 4a3 3 0 0 1 3 3v4a3 3 0 0 1-6 0V7a3 3 0 0 1 3-3zM6 11a6 6 0 0 0 12 0M12 17v3",
  camera: "M3 7h11v10H3zM14 11l6-3v8l-6-3",
  screen: "M3 5h18v11H3zM9 20h6M12 16v4",
  end: "M4 15c5-5 11-5 16 0l-2.5 2.5-3.5-2V13a8 8 0 0 0-4 0v2.5l-3.5 2z",
  send: "M4 12l16-8-6 16-3-6z",
};
const MICROPHONE = { audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true } };
const styles = fetch(new URL("widget.css", import.meta.url)).then((response) => response.text());

export class AvatarElement extends HTMLElement {
  key = ""; // of the server's API
  avatar = "";
  server = HOME;
  place = "corner"; // or inline: fills what it is in, and is always open
  #state = "idle";
  #name = "";
  #tools = []; // that the avatar declares for pages
  #call = null;
  #starting = null; // an AbortController, from the click until the connection
  #root = this.attachShadow({ mode: "open" });
  #parts = {};
  #offer = null; // what the server looks at
  #vision = new Vision({ send: (message) => this.#call?.send(message), changed: (shown) => this.#seen(shown), failed: (message) => this.#notice(message) });

  connectedCallback() {
    if (this.#parts.panel) return;
    this.#build();
    styles.then((text) => {
      const sheet = new CSSStyleSheet(); // not refused by a page's own policy, as an element of style would be
      sheet.replaceSync(text);
      this.#root.adoptedStyleSheets = [sheet];
      this.#parts.frame.hidden = false;
    });
    addEventListener("pagehide", this.#gone);
    this.#meet();
  }

  disconnectedCallback() {
    removeEventListener("pagehide", this.#gone);
    this.end();
  }

  // End the conversation, if there is one.
  end() {
    const [call, starting] = [this.#call, this.#starting];
    this.#hangUp();
    if (call) this.#enter("ended", "The conversation has ended.");
    else if (starting) this.#enter("idle");
  }

  // Who is met: name, picture, page actions. Without an answer the panel says why, when it is opened.
  async #meet() {
    try {
      const { name, imageUrl, tools } = await ask("GET", `${this.server}/v1/widget/${encodeURIComponent(this.avatar)}`, this.key);
      this.#introduce(name, imageUrl);
      this.#tools = tools;
    } catch (error) {
      this.#enter("error", this.#reason(error));
    }
  }

  // What a visitor can do about it; what the page's owner can do is in the console.
  #reason(error) {
    console.error(`The talking character ${this.avatar}: ${cause(error)}`);
    return [401, 403].includes(error.status) ? "This character cannot be talked to from this page." : cause(error);
  }

  #introduce(name, image) {
    const { launcher, panel, title, start, portrait, face } = this.#parts;
    this.#name = title.textContent = name;
    for (const part of [panel, launcher]) part.setAttribute("aria-label", `Talk to ${name}`);
    start.textContent = `Talk to ${name}`;
    if (!image) return;
    portrait.src = face.src = image;
    portrait.hidden = face.hidden = false;
  }

  #build() {
    const p = this.#parts;
    const inline = this.place === "inline";
    p.face = h("img", { hidden: true, alt: "", width: 64, height: 64 });
    p.launcher = h("button", { type: "button", className: "launcher", "aria-expanded": "false", "aria-controls": "panel", "aria-label": "Talk to a character", hidden: inline, onclick: () => this.#open(!this.#isOpen()) }, p.face, h("span", { className: "badge" }, icon(ICONS.chat)));
    p.title = h("h2", { textContent: "A talking character" });
    p.said = h("span");
    p.status = h("p", { className: "status", role: "status" }, h("i", { "aria-hidden": "true" }), p.said);
    p.close = h("button", { type: "button", className: "icon-button", "aria-label": "Close", hidden: inline, onclick: () => this.#open(false) }, icon(ICONS.close));
    p.video = h("video", { autoplay: true, playsInline: true, "aria-label": "The character" });
    p.portrait = h("img", { className: "portrait", hidden: true, alt: "" });
    p.start = h("button", { type: "button", className: "primary", textContent: "Start talking", onclick: () => this.#start(true) });
    p.mute = h("button", { type: "button", className: "quiet", textContent: "Write, without a microphone", onclick: () => this.#start(false) });
    p.message = h("p", { className: "message" });
    p.cancel = h("button", { type: "button", className: "quiet", textContent: "Cancel", onclick: () => this.end() });
    p.cover = h("div", { className: "cover" }, p.message, p.start, p.mute, p.cancel);
    p.captions = h("ol", { className: "captions", "aria-live": "polite", "aria-label": "Captions", tabIndex: 0 });
    p.words = h("input", { type: "text", maxLength: 500, placeholder: "Write instead of speaking", "aria-label": "Write instead of speaking", autocomplete: "off", enterKeyHint: "send" });
    p.write = h("form", { className: "write", onsubmit: (event) => this.#write(event) }, p.words, h("button", { type: "submit", className: "icon-button", "aria-label": "Send" }, icon(ICONS.send)));
    p.microphone = h("button", { type: "button", className: "switch", "aria-pressed": "true", onclick: () => this.#mute() }, icon(ICONS.microphone), h("span", { textContent: "Microphone" }));
    for (const source of ["camera", "screen"]) p[source] = h("button", { type: "button", className: `switch ${source}`, hidden: true, "aria-pressed": "false", onclick: () => this.#vision.toggle(source) }, icon(ICONS[source]), h("span", { textContent: source === "camera" ? "Camera" : "Screen" }));
    p.seeing = h("p", { className: "seeing", role: "status", hidden: true });
    p.leave = h("button", { type: "button", className: "switch danger", onclick: () => this.end() }, icon(ICONS.end), h("span", { textContent: "End" }));
    p.switches = h("div", { className: "switches", role: "group", "aria-label": "Call" }, p.microphone, p.camera, p.screen, p.leave);
    p.live = h("div", { className: "live" }, p.captions, p.write, p.switches);
    p.notice = h("p", { className: "notice", role: "alert", hidden: true });
    p.picture = h("div", { className: "picture" }, p.portrait, p.video, p.seeing, p.cover);
    const body = [h("header", {}, p.title, p.status, p.close), p.picture, p.notice, p.live];
    p.panel = h("section", { id: "panel", className: "panel", role: inline ? "region" : "dialog", "aria-label": "Talk to a character", hidden: !inline }, body);
    p.frame = h("div", { className: `frame ${inline ? "inline" : "corner"}`, hidden: true, onkeydown: (event) => this.#onKey(event) }, p.panel, p.launcher);
    if (["light", "dark"].includes(this.dataset.theme)) p.frame.dataset.theme = this.dataset.theme;
    if (CSS.supports("color", this.dataset.accent ?? "")) p.frame.style.setProperty("--accent", this.dataset.accent);
    this.captions = new Captions(p.captions);
    this.#root.append(p.frame);
    this.#enter("idle");
  }

  #isOpen() {
    return !this.#parts.panel.hidden;
  }

  #open(open) {
    const { panel, launcher, start } = this.#parts;
    if (!open) this.end();
    if (!open && this.#state === "ended") {
      this.captions.clear();
      this.#enter("idle");
    }
    panel.hidden = !open;
    launcher.setAttribute("aria-expanded", open);
    if (open) start.focus();
    else launcher.focus();
  }

  #onKey(event) {
    if (event.key === "Escape" && this.place !== "inline" && this.#isOpen()) {
      event.stopPropagation();
      this.#open(false);
    }
  }

  // A state, and what the panel says in it beside its name.
  #enter(state, message = "") {
    const p = this.#parts, live = LIVE.includes(state), busy = ["connecting", "queued"].includes(state);
    this.#state = p.frame.dataset.state = state;
    p.said.textContent = STATES[state];
    p.message.textContent = message;
    p.message.setAttribute("role", state === "error" ? "alert" : "note");
    p.message.hidden = !message;
    p.cover.hidden = live;
    p.start.hidden = p.mute.hidden = busy;
    p.cancel.hidden = !busy;
    p.write.hidden = p.switches.hidden = !this.#call;
    p.live.hidden = !this.#call && !p.captions.children.length;
    p.portrait.classList.toggle("behind", live);
    if (["ended", "error"].includes(state)) p.start.textContent = "Talk again";
  }

  #notice(message) {
    this.#parts.notice.textContent = message;
    this.#parts.notice.hidden = !message;
  }

  async #start(speaks) {
    const starting = (this.#starting = new AbortController()), p = this.#parts;
    this.#notice("");
    this.captions.clear();
    this.#enter("connecting", speaks ? "Allow the microphone, if your browser asks." : "");
    p.cancel.focus();
    let microphone = null;
    try {
      if (!window.RTCPeerConnection) throw userError("This browser has no WebRTC, or it is switched off. Use another browser.");
      if (speaks) microphone = await media("microphone", MICROPHONE);
      if (starting.signal.aborted) throw userError("", { left: true });
      this.#enter("connecting");
      const waits = () => this.#state === "connecting" && this.#enter("queued", "All places are taken. You are let in as soon as one is free.");
      const room = await opened({ server: this.server, key: this.key, avatar: this.avatar, signal: starting.signal, waits });
      const on = { track: (track) => this.#play(track), message: (event) => this.#receive(event), lost: () => this.#lost(), over: (message) => this.#fail(message) };
      const call = new Call({ ...room, microphone, on });
      if (starting.signal.aborted) return call.end();
      this.#enter("connecting");
      this.#call = call;
      p.microphone.hidden = !microphone;
      p.microphone.setAttribute("aria-pressed", "true");
      if (microphone) microphone.getAudioTracks()[0].onended = () => this.#notice("The microphone is gone. Go on by writing, or start again.");
      await call.connect();
    } catch (error) {
      microphone?.getTracks().forEach((track) => track.stop());
      if (!error.left && this.#starting === starting) this.#fail(this.#reason(error));
    }
  }

  // What may be shown; null: nothing.
  #offered(offer) {
    this.#offer = offer;
    if (offer) this.#vision.offered(offer);
    this.#parts.camera.hidden = !offer?.sources.includes("camera");
    this.#parts.screen.hidden = !offer?.sources.includes("screen") || !canShowScreen();
  }

  #seen(shown) {
    for (const source of ["camera", "screen"]) this.#parts[source].setAttribute("aria-pressed", shown.includes(source));
    this.#parts.seeing.hidden = !shown.length;
    this.#parts.seeing.textContent = seeing(this.#name, shown, this.#offer ?? {});
  }

  #hangUp() {
    this.#starting?.abort();
    this.#vision.end();
    this.#offered(null);
    this.#call?.end();
    this.#call = this.#starting = null;
    this.#parts.video.srcObject = null;
  }

  #fail(message) {
    this.#hangUp();
    this.#enter("error", message);
    this.#parts.start.focus();
  }

  #lost() {
    this.#enter("connecting", "The connection was lost. Connecting again.");
  }

  #gone = () => this.end();

  #play(track) {
    show(track, this.#parts.video).catch(() => this.#notice("Press any key to hear the character."));
  }

  #receive(event) {
    if (event.type === "state" && LIVE.includes(event.state)) this.#converse(event.state);
    else if (event.type === "caption") this.captions.add(event.who, event.text);
    else if (event.type === "interrupted") this.captions.cut();
    else if (event.type === "error" || event.type === "notice") this.#notice(event.message);
    else if (event.type === "client_event") this.#act(event);
    else if (event.type === "vision") this.#offered(event);
    else if (event.type === "vision.look") this.#vision.look(event.source);
    else if (event.type === "ended") {
      this.#hangUp();
      this.#enter("ended", event.message);
      this.#parts.start.focus();
    }
  }

  #converse(state) {
    const first = !LIVE.includes(this.#state);
    if (state === "thinking") this.captions.answer();
    this.#enter(state);
    if (state !== "listening") this.#notice("");
    if (first) (this.#parts.microphone.hidden ? this.#parts.words : this.#parts.microphone).focus();
  }

  // Other tools are the page's own: it hears of them by an event of this element, and decides what it does.
  #act({ tool, args }) {
    if (!this.#tools.includes(tool)) return;
    act(tool, args, this.#tools);
    this.dispatchEvent(new CustomEvent("avatar-event", { detail: { tool, args }, bubbles: true, composed: true }));
  }

  #write(event) {
    event.preventDefault();
    const text = this.#parts.words.value.trim();
    if (!text || !this.#call?.send({ type: "text", text })) return;
    this.captions.add("user", text);
    this.#parts.words.value = "";
  }

  #mute() {
    const track = this.#call?.microphone?.getAudioTracks()[0];
    if (!track) return;
    track.enabled = !track.enabled;
    this.#parts.microphone.setAttribute("aria-pressed", track.enabled);
  }
}

if (!customElements.get("gwm-avatar")) customElements.define("gwm-avatar", AvatarElement);

// Put an element where a script says: in a corner of the page, or behind the script itself.
export function embed(script) {
  const { key, avatar, place, theme, accent } = script.dataset;
  if (!key || !avatar) throw new Error('data-key and data-avatar must be given, as in data-key="pub_..." data-avatar="noa".');
  const element = Object.assign(document.createElement("gwm-avatar"), { key, avatar, place: place === "inline" ? "inline" : "corner" });
  Object.assign(element.dataset, { ...(theme && { theme }), ...(accent && { accent }) });
  if (element.place === "inline") script.after(element);
  else document.body.append(element);
  return element;
}
