"""LaTeX as a person would read it aloud."""

import re

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
