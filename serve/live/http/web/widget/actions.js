// What a character does on the page around it: click, scroll to, highlight. Elements are named by their id, or by the
// attribute data-avatar-target.

const HIGHLIGHT_MS = 2000;

const ACTIONS = {
  click: (element) => element.click(),
  scroll_to: (element) => element.scrollIntoView({ block: "center", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" }),
  highlight(element) {
    element.setAttribute("data-avatar-highlighted", "");
    clearTimeout(timers.get(element));
    timers.set(element, setTimeout(() => element.removeAttribute("data-avatar-highlighted"), HIGHLIGHT_MS));
  },
};
const timers = new WeakMap();

// Whether it was done. Nothing happens by a tool that the avatar does not have, nor to what a visitor could not use.
export function act(tool, args, declared) {
  if (!Object.hasOwn(ACTIONS, tool) || !declared.includes(tool)) return false;
  const element = named(args?.target);
  if (!element || (tool === "click" && !usable(element))) return false;
  ACTIONS[tool](element);
  return true;
}

function named(target) {
  if (typeof target !== "string" || !target) return null;
  return document.getElementById(target) ?? document.querySelector(`[data-avatar-target="${CSS.escape(target)}"]`);
}

function usable(element) {
  return !element.matches(":disabled, [aria-disabled=true]") && (element.checkVisibility?.({ visibilityProperty: true }) ?? true);
}
