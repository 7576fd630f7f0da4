// Tools of a character: what it may do on the page that it is on, and what it may ask a program for.

import { userError } from "../causes.js";
import { h, icon } from "../dom.js";
import { dialog, field, iconButton, ICONS } from "./parts.js";

const MOST_TARGETS = 20;
const KINDS = { client_event: "Acts on the page", backend_rpc: "Asks a program" };
const SCALARS = ["string", "integer", "number", "boolean"];
const TYPES = { string: "text", integer: "whole number", number: "number", boolean: "yes or no", array: "list", object: "group" };
const ACTIONS = {
  click: "Click an element of the page",
  scroll_to: "Scroll to an element of the page",
  highlight: "Highlight an element of the page for two seconds",
};
const lines = (text) => text.split(/[\n,]/).map((line) => line.trim()).filter(Boolean);

// An element with `list()`, as requests have it.
export function toolsPart(stored) {
  let tools = stored;
  const list = h("ul", { className: "rows" });
  const part = h("div", {}, list, h("div", { className: "row" }, h("button", { type: "button", className: "quiet", onclick: pageActions }, icon(ICONS.plus), "Page actions"), h("button", { type: "button", className: "quiet", onclick: () => edit() }, icon(ICONS.plus), "Own tool")));
  part.list = () => tools;
  show();
  return part;

  function show() {
    list.replaceChildren(...tools.map((tool) => {
      const text = h("span", {}, h("b", { textContent: tool.name }), h("small", { textContent: `${KINDS[tool.type]}: ${tool.description}` }));
      return h("li", { className: "item" }, text, iconButton("edit", `Change ${tool.name}`, () => edit(tool)), iconButton("remove", `Remove ${tool.name}`, () => put(tools.filter((each) => each !== tool))));
    }));
  }

  function put(changed) {
    const names = changed.map(({ name }) => name), twice = names.find((name, place) => names.indexOf(name) !== place);
    if (twice) throw userError(`There is a tool named ${twice} already. Choose another name.`);
    tools = changed;
    show();
  }

  function pageActions() {
    const targets = h("textarea", { required: true, rows: 4, placeholder: "buy\nopening-hours" });
    const boxes = Object.entries(ACTIONS).map(([name, description]) => h("label", { className: "check" }, h("input", { type: "checkbox", value: name, checked: true }), description));
    const content = [...boxes, field("Elements", targets, "One a line: the id of an element of the page, or its data-avatar-target. It can act on no others.")];
    dialog("Page actions", content, { action: "Add", work() {
      const names = lines(targets.value);
      if (names.length > MOST_TARGETS) throw userError(`There are ${names.length} elements, may be at most ${MOST_TARGETS}.`);
      const chosen = boxes.map((box) => box.querySelector("input")).filter(({ checked }) => checked).map(({ value }) => value);
      const target = { name: "target", description: "Which element.", type: "string", required: true, enum: names };
      const added = chosen.map((name) => ({ type: "client_event", name, description: `${ACTIONS[name]}.`, parameters: [target] }));
      put([...tools.filter(({ name }) => !chosen.includes(name)), ...added]);
    } });
  }

  function edit(old = null) {
    const type = h("select", {}, Object.entries(KINDS).map(([value, text]) => h("option", { value, textContent: text, selected: old?.type === value })));
    const name = h("input", { required: true, maxLength: 64, pattern: "[a-zA-Z_][a-zA-Z0-9_]*", title: "Letters, digits and _, not beginning with a digit", value: old?.name ?? "", placeholder: "show_product", autocomplete: "off" });
    const description = h("textarea", { required: true, maxLength: 1024, rows: 2, value: old?.description ?? "", placeholder: "Shows a product to the visitor. Use it when one is spoken of." });
    const parameters = h("div", { className: "parameters" }, (old?.parameters ?? []).map(parameter));
    const more = h("button", { type: "button", className: "quiet", onclick: () => parameters.append(parameter()) }, icon(ICONS.plus), "Argument");
    const content = [field("Kind", type), field("Name", name), field("Description", description, "The language model reads it to decide when it calls the tool."), parameters, more];
    dialog(old ? "Change a tool" : "Own tool", content, { action: old ? "Change" : "Add", work() {
      const made = { type: type.value, name: name.value, description: description.value.trim(), parameters: [...parameters.children].map((row) => row.read()) };
      if (type.value === "backend_rpc") made.timeoutSeconds = old?.timeoutSeconds ?? 4;
      put(old ? tools.map((tool) => (tool === old ? made : tool)) : [...tools, made]);
    } });
  }
}

const typed = (label, names, chosen) => h("select", { "aria-label": label }, names.map((each) => h("option", { value: each, textContent: TYPES[each], selected: each === chosen })));

// One argument, or one field of an argument that is a group of them.
function parameter(old = {}) {
  const name = h("input", { required: true, maxLength: 64, "aria-label": "Name of the argument", placeholder: "Name", value: old.name ?? "" });
  const type = typed("Type of the argument", Object.keys(TYPES), old.type ?? "string");
  const description = h("input", { required: true, maxLength: 1024, "aria-label": "Description of the argument", placeholder: "What it means", value: old.description ?? "" });
  const choices = h("input", { "aria-label": "Choices of the argument, with commas between", placeholder: "Choices (optional)", value: (old.enum ?? []).join(", ") });
  const items = typed("Type of what is in the list", SCALARS, old.items?.type ?? "string");
  const fields = h("div", { className: "parameters" }, (old.properties ?? []).map((each) => parameter(each)));
  const group = h("div", { className: "group" }, fields, h("button", { type: "button", className: "quiet", onclick: () => fields.append(parameter()) }, icon(ICONS.plus), "Field"));
  const row = h("div", { className: "parameter" }, name, type, description, choices, items, iconButton("remove", "Remove the argument", () => row.remove()), group);
  const fit = () => {
    choices.hidden = type.value !== "string";
    items.hidden = type.value !== "array";
    group.hidden = type.value !== "object";
  };
  type.onchange = fit;
  fit();
  row.read = () => {
    const names = type.value === "string" ? lines(choices.value) : [];
    return {
      name: name.value.trim(),
      type: type.value,
      description: description.value.trim(),
      required: old.required ?? true,
      enum: names.length ? names : null,
      items: type.value === "array" ? { type: items.value } : null,
      properties: type.value === "object" ? [...fields.children].map((each) => each.read()) : null,
    };
  };
  return row;
}
