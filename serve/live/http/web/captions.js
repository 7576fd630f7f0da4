// What was said, as lines of a list: text, never markup.

const LINES = 60;

export class Captions {
  #open = null; // the character's line that grows piece by piece, until it answers something else

  constructor(list) {
    this.list = list;
  }

  add(who, text) {
    if (who === "character" && this.#open) this.#open.textContent += ` ${text}`;
    else {
      const line = Object.assign(document.createElement("li"), { className: who, textContent: text });
      this.list.append(line);
      if (who === "character") this.#open = line;
      while (this.list.children.length > LINES) this.list.firstElementChild.remove();
    }
    this.list.scrollTop = this.list.scrollHeight;
  }

  // The character begins to answer. Until then its words belong to what it said before, also below what the visitor wrote meanwhile.
  answer() {
    if (this.#open !== this.list.lastElementChild || this.#open?.classList.contains("cut")) this.#open = null;
  }

  // The character was interrupted in its last line.
  cut() {
    this.#open?.classList.add("cut");
  }

  clear() {
    this.#open = null;
    this.list.replaceChildren();
  }
}
