// Documents: those that the character knows are checked; all can be read, changed and deleted here.

import { cause } from "../causes.js";
import { h, icon } from "../dom.js";
import { all, call } from "./api.js";
import { confirmed, dialog, doing, field, iconButton, ICONS } from "./parts.js";

const MOST = 200000; // characters

// An element with `ids()` of the checked ones.
export async function documentsPart(known) {
  const list = h("ul", { className: "rows" });
  const failure = h("p", { className: "failure", role: "alert", hidden: true });
  const input = h("input", { type: "file", multiple: true, accept: ".txt,.md,text/plain,text/markdown", className: "out", "aria-label": "Document files", onchange: () => add([...input.files]) });
  const part = h("div", {}, list, failure, h("div", { className: "row" }, h("label", { className: "button" }, "Add files", input), h("button", { type: "button", className: "quiet", textContent: "Write one", onclick: () => edit() })));
  part.ids = () => [...list.querySelectorAll("input:checked")].map(({ value }) => value);
  for (const one of await all("/documents")) show(one, known.includes(one.id));
  return part;

  function show({ id, name, usedBy }, checked) {
    const others = usedBy.map((user) => user.name).join(", ");
    const text = h("span", {}, h("b", { textContent: name }), others ? h("small", { textContent: `Used by ${others}` }) : null);
    const line = h("li", { className: "item" }, h("label", { className: "check" }, h("input", { type: "checkbox", value: id, checked }), text),
      iconButton("edit", `Change ${name}`, doing(async () => edit(await call("GET", `/documents/${id}`), line))),
      iconButton("remove", `Delete ${name}`, () => confirmed(`Delete ${name}?`, others ? `${others} will not know it any more.` : "No character uses it.", "Delete", async () => {
        await call("DELETE", `/documents/${id}`);
        line.remove();
      })));
    list.append(line);
    return line;
  }

  async function add(files) {
    input.value = "";
    failure.hidden = true;
    for (const file of files) {
      try {
        const content = await file.text();
        if (content.includes("\u0000")) throw Object.assign(new Error(`${file.name} is no text. Add plain text or Markdown.`), { forUser: true });
        if (content.length > MOST) throw Object.assign(new Error(`${file.name} has ${content.length} characters, must have at most ${MOST}. Split it.`), { forUser: true });
        if (!content.trim()) throw Object.assign(new Error(`${file.name} is empty.`), { forUser: true });
        show(await call("POST", "/documents", { name: file.name, content }), true);
      } catch (error) {
        failure.textContent = cause(error);
        failure.hidden = false;
      }
    }
  }

  function edit(old = null, line = null) {
    const name = h("input", { required: true, maxLength: 255, value: old?.name ?? "", autocomplete: "off" });
    const content = h("textarea", { required: true, maxLength: MOST, rows: 12, value: old?.content ?? "" });
    dialog(old ? "Change a document" : "Write a document", [field("Name", name), field("Text", content)], { action: "Save", work: async () => {
      const body = { name: name.value.trim(), content: content.value };
      if (!old) return show(await call("POST", "/documents", body), true);
      await call("PATCH", `/documents/${old.id}`, body);
      const checked = line.querySelector("input").checked;
      line.replaceWith(show({ ...old, ...body }, checked));
    } });
  }
}
