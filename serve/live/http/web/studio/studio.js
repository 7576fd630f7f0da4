// The studio: characters and their conversations, over the server's public REST. One view at a time, named by the hash.

import { cause } from "../causes.js";
import { h } from "../dom.js";
import { call, forget, key, remember } from "./api.js";
import { characters } from "./characters.js";
import { conversation, conversations } from "./conversations.js";
import { editor } from "./editor.js";
import { doing, field, problem, spinner } from "./parts.js";

const VIEWS = [
  [/^#\/characters$/, characters],
  [/^#\/characters\/([\w-]+)$/, editor],
  [/^#\/conversations$/, conversations],
  [/^#\/conversations\/([\w-]+)$/, conversation],
];
const HOME = "#/characters";
let shown = 0; // counts views: what arrives late for an older one is left out

async function show() {
  const view = document.getElementById("view"), mine = ++shown;
  problem("");
  document.querySelectorAll("dialog").forEach((dialog) => dialog.remove());
  for (const element of [document.getElementById("nav"), document.getElementById("sign-out")]) element.hidden = !key();
  if (!key()) return view.replaceChildren(signIn());
  const found = VIEWS.map(([pattern, make]) => [location.hash.match(pattern), make]).find(([match]) => match);
  if (!found) return location.replace(HOME);
  for (const link of document.querySelectorAll("#nav a")) {
    if (location.hash.startsWith(link.hash)) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  view.replaceChildren(spinner("Loading"));
  try {
    const [[, id], make] = found;
    const made = await make(id, () => mine === shown);
    if (mine !== shown) return;
    view.replaceChildren(made);
    document.title = `${made.querySelector("h1")?.textContent ?? "gwm"} - gwm studio`;
    view.focus({ preventScroll: true });
    scrollTo(0, 0);
  } catch (error) {
    if (mine !== shown || error.status === 401) return;
    view.replaceChildren(h("a", { href: HOME, textContent: "To the characters" }));
    problem(error);
  }
}

function signIn(why = "") {
  const text = h("input", { type: "password", name: "key", required: true, autocomplete: "off", spellcheck: false, placeholder: "key_..." });
  const enter = doing(async () => {
    remember(text.value.trim());
    try {
      await call("GET", "/organization");
    } catch (error) {
      forget();
      throw error;
    }
    show();
  });
  const failure = why && h("p", { className: "failure", role: "alert", textContent: why });
  return h("section", { className: "sign-in card" },
    h("h1", { textContent: "Make a character that talks" }),
    h("p", { textContent: "A picture, a voice and a personality are all it takes. Enter an API key of this server to begin." }),
    failure || null,
    h("form", { onsubmit: enter }, field("API key", text, "It is kept in this tab alone, until you close it."), h("button", { className: "primary", textContent: "Open the studio" })),
    h("details", {}, h("summary", { textContent: "Where do I find a key?" }),
      h("p", { textContent: "A server that only its own machine can reach prints a key in its log when it starts for the first time. Make another one beside it with:" }),
      h("pre", { tabIndex: 0, textContent: "python -m serve.keys name=studio" })));
}

document.getElementById("sign-out").addEventListener("click", () => {
  forget();
  show();
});
addEventListener("signed-out", ({ detail }) => {
  shown++;
  document.getElementById("nav").hidden = document.getElementById("sign-out").hidden = true;
  document.getElementById("view").replaceChildren(signIn(detail));
});
addEventListener("hashchange", show);
addEventListener("unhandledrejection", ({ reason }) => problem(cause(reason)));
show();
