"""From what a language model writes to what a person would say: the only way from the model to voice and captions."""

import html
import re

from serve.live.speech.thoughts import ThoughtMarkup, Thoughts

# A construct that is longer is none: what it would be waits meanwhile.
LINK_CHARS, FORMULA_CHARS, MONEY_CHARS, ROW_CHARS, SCRIPT_CHARS = 300, 400, 30, 1_000, 5_000
# At the beginning of a line, so far: what follows decides what it is.
UNDECIDED = re.compile(r"[ \t]*(?:[-*_=+>#~`\u2022]+|\d{1,3}[.)]?)?[ \t]*")
FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})")
RULE = re.compile(r"[ \t]*([-*_=])(?:[ \t]*\1){2,}[ \t]*")
MARKERS = re.compile(r"[ \t]*(?:#{1,6}[ \t]+|>[ \t]?|[-*+\u2022][ \t]+|\d{1,3}[.)][ \t]+)")
TABLE_RULE = re.compile(r"[|:\-\s]+")
SENTENCE_END = re.compile(r"[.!?:;,\u2026]['\")\]\u201d\u2019]*$")
# What is said in place of what is written, in this order.
FORMULA = re.compile(r"\$\$(.+?)\$\$|\\\((.+?)\\\)|\\\[(.+?)\\\]|\$(?=[^\s$])([^$\n]*[^\s$])\$(?!\d)", re.DOTALL)
REWRITTEN: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"<(script|style)\b.*?</\1>|<!--.*?-->|<\|[^<>|]*\|>", re.DOTALL | re.IGNORECASE), " "),
    (re.compile(r"<((?:https?|ftp)://[^<>\s]+|[^<>\s@]+@[^<>\s]+)>"), r"\1"),
    (re.compile(r"</?[A-Za-z][^<>\n]*>"), " "),
    (re.compile(r"!?\[([^\[\]\n]*)\](?:\([^()\n]*\)|\[[^\[\]\n]*\])"), r"\1"),  # images and links
    (re.compile(r"\[\^?[\d ,xX]*\]"), ""),  # footnotes and boxes
    (re.compile(r"\[([^\[\]\n]+)\]"), r"\1"),
    (re.compile(r"(?:https?|ftp)://(?:www\.)?([^\s/?#:<>()\"']+)[^\s<>()\"']*?(?=[.,;:!?]*(?:[\s()\"']|$))"), r"\1"),
    (re.compile(r"(?<=\d)\s*[*\u00d7]\s*(?=\d)"), " times "),
    (re.compile(r"(?<!\\)[*`]+|~~|==|(?<!\w)_+|_+(?!\w)"), ""),
    (re.compile(r"(?<=\w)_+(?=\w)"), " "),
    (re.compile(r"(?<!\w)#(?=\d)"), "number "),
    (re.compile(r"(?<!\w)#+(?=\w)"), ""),
    (re.compile(r"(?<!\w)~(?=\d)"), "about "),
    (re.compile(r"\\(?=[^\w\s])"), ""),
    (re.compile(r"\s*\|\s*"), ", "),
    (re.compile(r"(?<!\S)[:;]-?[()DPp](?!\S)"), ""),  # faces of punctuation
    (
        re.compile(
            "[\U0001f000-\U0001faff\u2600-\u27bf\u2b00-\u2bff\u2300-\u23ff\u2190-\u21ff\u25a0-\u25ff"
            "\ufe0e\ufe0f\u200d\u20e3\U000e0020-\U000e007f]"
        ),
        " ",
    ),
    (re.compile(r"\s+(?=[.,;:!?](?:\s|$))"), ""),
)


def said_words(written: str) -> str:
    """What a person says for some words without line markers, each construct whole."""
    said = FORMULA.sub(lambda found: f" {said_formula(next(filter(None, found.groups())))} ", written)
    for pattern, words in REWRITTEN:
        said = pattern.sub(words, said)
    return html.unescape(said)


class SpokenText:
    """Text goes in by `feed` as it is generated; speech comes out word by word, and what is left by `end`.

    Left out: thoughts, code blocks, tags, emoji, markers of headings, lists, tables and emphasis. Links become their
    text, addresses their host, formulas their words. A line that is a heading, an item or a row ends a sentence. What
    comes out in all depends on the text alone, not on the pieces in which it came.
    """

    def __init__(self, markup: ThoughtMarkup) -> None:
        self._thoughts = Thoughts(markup)
        self._reset()

    def feed(self, text: str) -> str:
        self._text += self._thoughts.feed(text.replace("\r", ""))
        return self._take(final=False)

    def end(self, *, complete: bool = True) -> str:
        """The end of an answer; complete: as in `Thoughts.end`."""
        self._text += self._thoughts.end(complete=complete)
        said = self._take(final=True)
        self._reset()
        return said

    def _reset(self) -> None:
        self._text = ""  # not decided yet
        self._said = "\n"  # the last word that was said, and its space
        self._line_starts = True
        self._item = self._item_before = False  # this line, and the one before, is one that ends a sentence
        self._fence = ""  # of the code block that is open

    def _take(self, *, final: bool) -> str:
        said = []
        while self._text:
            if self._fence:
                part = self._code(final)
            elif self._line_starts:
                part = self._beginning_of_line(final)
            else:
                part = self._word(final)
            if part is None:
                break
            if part:
                said.append(part)
                self._said = part
        return "".join(said)

    def _code(self, final: bool) -> str | None:
        """Leave a line of a code block out; None: it has no end yet."""
        line, newline, rest = self._text.partition("\n")
        if not newline and not final:
            return None
        self._text = rest
        if line.strip().startswith(self._fence):
            self._fence = ""
        return ""

    def _beginning_of_line(self, final: bool) -> str | None:
        """Leave out what marks the line; None: it may be longer."""
        line, newline, rest = self._text.partition("\n")
        if not newline and not final and UNDECIDED.fullmatch(line):
            return None
        if fence := FENCE.match(line):
            return self._open_fence(fence, newline, rest, final)
        if line.lstrip().startswith("|"):
            return self._row(line, newline, rest, final)
        if RULE.fullmatch(line) or not line.strip():
            self._text = rest
            return self._stop()
        if marker := MARKERS.match(line):
            self._text, self._item = self._text[marker.end() :], True
            return self._stop()
        self._line_starts = False
        return self._stop() if self._item_before else self._space()

    def _open_fence(self, fence: re.Match[str], newline: str, rest: str, final: bool) -> str | None:
        if not newline and not final:
            return None
        self._fence, self._text = fence.group(1)[:3], rest
        return self._stop()

    def _row(self, line: str, newline: str, rest: str, final: bool) -> str | None:
        """A row of a table: its cells, as one sentence."""
        if not newline and not final and len(line) < ROW_CHARS:
            return None
        self._text = rest
        if TABLE_RULE.fullmatch(line):
            return ""
        cells = [said_words(cell).strip() for cell in line.strip().strip("|").split("|")]
        said = ", ".join(filter(None, cells))
        return f"{said}. " if said else ""

    def _word(self, final: bool) -> str | None:
        """The next word with its space; None: it may be longer."""
        end = _end_of_word(self._text, final)
        if end is None:
            return None
        raw, self._text = self._text[:end], self._text[end:]
        said = " ".join(said_words(raw).split())
        if raw.strip() in ("*", "\u00d7") and self._said.rstrip()[-1:].isdigit():
            said = "times"
        if raw.endswith("\n"):  # the next line decides how this one ends
            self._line_starts, self._item_before, self._item = True, self._item, False
            return said
        return said + " " if said and raw[-1].isspace() else said

    def _stop(self) -> str:
        """The end of a sentence that has none, or a space."""
        said = self._said.rstrip()
        self._item_before = False
        return ". " if said and not SENTENCE_END.search(said) else self._space()

    def _space(self) -> str:
        return "" if self._said[-1].isspace() else " "


def _end_of_word(text: str, final: bool) -> int | None:
    """Where the first word ends, its space included, with every construct in it whole; None: it may be longer."""
    at = 0
    while at < len(text):
        if text[at].isspace():
            return at + 1
        end = _end_of_construct(text, at)
        if end is None and not final:
            return None
        at = end or at + 1
    return len(text) if final else None


def _end_of_construct(text: str, at: int) -> int | None:
    """Where the link, tag, code or formula that begins here ends, 0 where none does; None: it may be longer."""
    if text[at] not in "<[`$\\":
        return 0
    if len(text) < at + 2:
        return None  # what follows decides
    ahead = text[at + 1]
    if text[at] == "`":
        return _after(text, at + 1, "`", LINK_CHARS)
    if text[at] == "\\":
        return _after(text, at + 2, {"(": r"\)", "[": r"\]"}[ahead], FORMULA_CHARS, lines=True) if ahead in "([" else 0
    if text[at] == "$":
        return _after(text, at + 2, "$$", FORMULA_CHARS, lines=True) if ahead == "$" else _end_of_formula(text, at)
    if text[at] == "<":
        return _end_of_tag(text, at) if ahead.isalpha() or ahead in "/!|" else 0
    return _end_of_link(text, at)


def _end_of_formula(text: str, at: int) -> int | None:
    """Of one between single dollars, which are more often money."""
    if text[at + 1].isspace():
        return 0
    end = _after(text, at + 1, "$", MONEY_CHARS if text[at + 1].isdigit() else FORMULA_CHARS)
    if not end or text[end - 2].isspace():
        return end and 0
    if end == len(text):
        return None
    return 0 if text[end].isdigit() else end


def _end_of_tag(text: str, at: int) -> int | None:
    end = _after(text, at + 1, ">", LINK_CHARS)
    if end and (found := re.match(r"<(script|style)\b", text[at:end], re.IGNORECASE)):
        return _after(text, end, f"</{found[1]}>", SCRIPT_CHARS, lines=True)
    return end


def _end_of_link(text: str, at: int) -> int | None:
    end = _after(text, at + 1, "]", LINK_CHARS)
    if not end:
        return end
    if end == len(text):
        return None
    target = {"(": ")", "[": "]"}.get(text[end])
    return _after(text, end + 1, target, LINK_CHARS) if target else end


def _after(text: str, start: int, closing: str, chars: int, *, lines: bool = False) -> int | None:
    """The place after `closing`; 0 where it does not come on this line within so many characters; None: it may."""
    part = text[start : start + chars]
    if not lines and "\n" in part:
        part, chars = part.partition("\n")[0], 0
    end = part.find(closing)
    if end >= 0:
        return start + end + len(closing)
    return None if len(part) < chars else 0


SIGNS = {
    r"\times": "times", r"\cdot": "times", r"\div": "divided by", r"\pm": "plus or minus", r"\leq": "is at most",
    r"\le": "is at most", r"\geq": "is at least", r"\ge": "is at least", r"\neq": "is not", r"\ne": "is not",
    r"\approx": "is about", r"\infty": "infinity", r"\to": "to", r"\rightarrow": "to", r"\sum": "the sum of",
    r"\int": "the integral of", r"\in": "in", r"\degree": "degrees", r"\circ": "degrees", r"\%": "percent",
}  # fmt: skip
PLAIN = {"+": "plus", "=": "equals", "<": "is less than", ">": "is more than", "*": "times", "/": "over", "-": "minus"}
FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
ROOT = re.compile(r"\\sqrt\s*\{([^{}]*)\}")
POWER = re.compile(r"\^\s*(?:\{([^{}]*)\}|(\w))")
INDEX = re.compile(r"_\s*(?:\{([^{}]*)\}|(\w))")
TEXT = re.compile(r"\\(?:text|mathrm|mathbf|mathit|mathbb|mathcal|operatorname|boxed)\s*\{([^{}]*)\}")
POWERS = {"2": "squared", "3": "cubed"}


def said_formula(formula: str) -> str:
    """The words of a formula; what has no words, such as sizes and spaces, is left out."""
    said = TEXT.sub(r" \1 ", formula)
    for _ in range(3):  # one in another
        said = ROOT.sub(r" the square root of \1 ", said)
        said = FRACTION.sub(r" \1 over \2 ", said)
    said = POWER.sub(_power, INDEX.sub(lambda found: f" {found[1] or found[2]} ", said))
    for sign, words in sorted(SIGNS.items(), key=lambda pair: -len(pair[0])):
        said = re.sub(re.escape(sign) + r"(?![A-Za-z])", f" {words} ", said)
    said = re.sub(r"\\([A-Za-z]+)", r" \1 ", said.replace(r"\left", "").replace(r"\right", ""))
    said = re.sub(r"\\.|[{}&$~]", " ", said)
    said = re.sub(r"(?<=[\w\s)])([-+=<>*/])(?=[\s\w(])", lambda found: f" {PLAIN[found[1]]} ", said)
    return " ".join(said.split())


def _power(found: re.Match[str]) -> str:
    power = (found[1] or found[2]).strip()
    if power in ("\\circ", "\\degree"):
        return " degrees "
    return f" {POWERS.get(power, f'to the {power}')} "
