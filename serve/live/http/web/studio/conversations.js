// Past conversations: who talked, when, for how long, and every word and call of a tool.

import { h, icon } from "../dom.js";
import { all, call } from "./api.js";
import { confirmed, doing, empty, ICONS, tell } from "./parts.js";

const LIMIT = 30;
const STATES = { in_progress: "Going on", ended: "Ended", failed: "Failed" };
const when = (time) => new Date(time).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
const long = (seconds) => (seconds === null ? "-" : `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")} min`);

export async function conversations() {
  const avatars = await all("/avatars");
  const list = h("ul", { className: "rows conversations" });
  const more = h("button", { type: "button", textContent: "Show more", hidden: true, onclick: doing(() => load()) });
  const nobody = empty("No conversation yet", "As soon as somebody has talked to a character, it can be read here.");
  const of = h("select", { "aria-label": "Character", onchange: doing(() => load(true)) }, h("option", { value: "", textContent: "All characters" }), avatars.map(({ id, name }) => h("option", { value: id, textContent: name })));
  let cursor = null;
  await load(true);
  return h("section", {}, h("div", { className: "heading" }, h("h1", { textContent: "Conversations" }), of), list, nobody, more);

  async function load(anew = false) {
    const query = new URLSearchParams({ limit: LIMIT, ...(of.value && { avatar: of.value }), ...(!anew && cursor && { cursor }) });
    const page = await call("GET", `/avatar_conversations?${query}`);
    if (anew) list.replaceChildren();
    list.append(...page.data.map(row));
    cursor = page.nextCursor;
    more.hidden = cursor === null;
    nobody.hidden = list.children.length > 0;
  }
}

function row({ id, avatar, createdAt, duration, status, hasTools }) {
  const state = h("span", { className: `chip ${status}`, textContent: STATES[status] });
  return h("li", {}, h("a", { className: "item", href: `#/conversations/${id}` }, h("span", {}, h("b", { textContent: avatar.name ?? "A deleted character" }), h("small", { textContent: `${when(createdAt)}, ${long(duration)}${hasTools ? ", with tools" : ""}` })), state));
}

export async function conversation(id) {
  const found = await call("GET", `/avatar_conversations/${id}`);
  const remove = h("button", { type: "button", className: "danger", textContent: "Delete", disabled: found.status === "in_progress", onclick: () =>
    confirmed("Delete this conversation?", "What was said cannot be had back.", "Delete", async () => {
      await call("DELETE", `/avatar_conversations/${id}`);
      tell("The conversation is deleted.");
      location.assign("#/conversations");
    }) });
  const back = h("a", { className: "icon-button button", href: "#/conversations", "aria-label": "Back to all conversations" }, icon(ICONS.back));
  const facts = h("p", { className: "hint", textContent: `${when(found.createdAt)}, ${long(found.duration)}, ${STATES[found.status].toLowerCase()}` });
  const failure = found.failure ? h("p", { className: "failure", textContent: `${found.failure} (${found.failureCode})` }) : null;
  const lines = h("ol", { className: "transcript", "aria-label": "Transcript" }, found.transcript.map(line));
  return h("section", {}, h("div", { className: "heading" }, back, h("h1", { textContent: found.name }), remove), facts, failure ?? "", found.transcript.length ? lines : empty("Nothing was said", "The visitor came and left without a word."));
}

function line({ role, content, timestamp, toolCalls, toolResults }) {
  const time = h("time", { dateTime: timestamp, textContent: new Date(timestamp).toLocaleTimeString() });
  const who = h("span", { className: "out", textContent: role === "user" ? "Visitor: " : "Character: " });
  if (!toolCalls.length) return h("li", { className: role }, who, content ?? "", time);
  return h("li", { className: "call" }, toolCalls.map((each, place) => {
    const outcome = toolResults[place] ?? {};
    const summary = h("summary", {}, h("b", { textContent: each.name }), outcome.error ? h("span", { className: "chip failed", textContent: "Failed" }) : null, h("small", { textContent: outcome.durationMs == null ? "" : `${outcome.durationMs} ms` }));
    return h("details", {}, summary, h("pre", { tabIndex: 0, textContent: JSON.stringify({ arguments: each.arguments, ...(outcome.error ? { error: outcome.error } : { result: outcome.result }) }, null, 2) }));
  }), time);
}
