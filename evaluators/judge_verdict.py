"""A judge's verdict as it is read from its answer.

Of two responses a verdict is A or B, or a grade between them: A>>B, A>B, A=B, B>A, B>>A. Of one response it is a number
of points. What is no verdict is None: it is never guessed, neither a tie nor a loss.
"""

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Verdict = str | float

# what a verdict counts for the first response
WINS = {"A": 1.0, "A>>B": 1.0, "A>B": 1.0, "A=B": 0.5, "B>A": 0.0, "B>>A": 0.0, "B": 0.0}
GRADES = {"A": 1, "A>>B": 2, "A>B": 1, "A=B": 0, "B>A": -1, "B>>A": -2, "B": -1}
LOWEST, HIGHEST = 1.0, 10.0  # points
LONGEST_VERDICT = 2000  # characters that say it, with what stands around them

# What may stand around a verdict, left and right.
_WRAPPERS = (
    *(("**", "**"), ("__", "__"), ("[", "]"), ("(", ")"), ("{", "}"), ("$", "$"), ("\\boxed{", "}"), ("\\text{", "}")),
    *(('"', '"'), ("'", "'"), ("`", "`"), ("“", "”"), ("‘", "’"), ("", ".")),
)
_THINKING = "think|thinking|thought|reasoning"
_CHOICE = r"A\s*>>\s*B|B\s*>>\s*A|A\s*>\s*B|B\s*>\s*A|A\s*=\s*B|A|B"
_POINTS = r"\d+(?:\.\d+)?"
# in the order in which they are looked for; of a JSON object
_CHOICE_KEYS = ("verdict", "winner", "answer", "choice", "preference", "preferred", "better", "best", "result")
_POINTS_KEYS = ("score", "overall", "rating", "points", "total")
_NOUN = r"(?:(?:the\s+)?(?:response|answer|assistant|option|candidate|model|reply|output)\s*)"
_LEAD = (
    r"(?:(?:my|the|final|overall)\s+)*"
    r"(?:answer|verdict|choice|winner|decision|judge?ment|preference|better\s+(?:response|answer))\s*(?:is\s*:?|:|=)\s*"
)
_BETTER = (
    r"\s+(?:wins|(?:is|was)\s+(?:(?:the|clearly|slightly|much|significantly)\s+)*"
    r"(?:better|best|preferred|preferable|superior|stronger|winner))"
    r"(?:\s+(?:one|response|answer|choice|overall))?"
)
_THAN = rf"(?:\s+than\s+{_NOUN}?[AB])?"
_SENTENCE = re.compile(
    rf"(?:{_LEAD})?{_NOUN}?[\[\(\"']*({_CHOICE})[\]\)\"']*(?:{_BETTER}{_THAN})?\s*[.!]?", re.IGNORECASE
)
_SCORED = re.compile(
    rf"(?:(?:my|the|final|overall)\s+)*(?:(?:score|rating|points|grade)\s*(?:is\s*:?|:|=)?\s*)?"
    rf"[\[\(\"']*({_POINTS})[\]\)\"']*\s*(?:/\s*10|out\s+of\s+10|points?)?\s*\.?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Reader:
    """Reads verdicts from answers: by a declared pattern, or in the forms that judges are known to answer in.

    Thoughts before the verdict (<think>...</think>) are left out; where they never end there is no verdict. The forms:
    a letter or grade alone, in brackets, quotes, bold, tags or a code block; "Answer: A", "Response A is better."; JSON
    with a verdict; the same as the first or last of several lines; [[A]] or \\boxed{A} anywhere. Two that contradict
    each other are none.
    """

    pattern: str | None = None
    """A regular expression whose last match holds the verdict, in its first group that matched, or as a whole."""
    points: bool = False
    """Answers are points for one response, not a choice between two."""

    def __call__(self, text: str, cut_off: bool = False) -> Verdict | None:
        """The verdict of an answer; cut_off: it is not whole, so that its last line is no conclusion."""
        said = _after_thinking(unicodedata.normalize("NFKC", text))
        if said is None:
            return None
        if self.pattern is not None:
            if not (matches := list(re.finditer(self.pattern, said))):
                return None
            groups = (group for group in matches[-1].groups() if group)
            return self._short(next(groups, matches[-1][0]))
        found = {verdict for part in _parts(said) if (verdict := self._json(part)) is not None}
        if len(found) == 1:
            return found.pop()
        if (whole := self._short(said, sentences=not cut_off)) is not None:
            return whole
        marked = {self._short(one or two) for one, two in re.findall(r"\[\[([^\[\]]*)\]\]|\\boxed\{([^{}]*)\}", said)}
        if marked - {None}:
            return marked.pop() if len(marked) == 1 else None
        return self._line(said, cut_off)

    def _line(self, text: str, cut_off: bool) -> Verdict | None:
        """The verdict of the first or last of several lines, where no line holds another."""
        lines = [line for line in text.splitlines() if line.strip(" \t`")]
        if len(lines) < 2:
            return None
        verdicts = [self._short(line) for line in (lines[:-1] if cut_off else lines)]
        if len(set(verdicts) - {None}) != 1:
            return None
        return verdicts[0] if verdicts[0] is not None or cut_off else verdicts[-1]

    def _short(self, text: str, sentences: bool = True) -> Verdict | None:
        """The verdict that a text is, or says in a sentence and nothing else."""
        if len(text := text.strip()) > LONGEST_VERDICT:
            return None
        bare = _unwrapped(text)
        if self.points:
            found = _SCORED.fullmatch(re.sub(r"\*+|`+", "", bare)) if sentences else None
            return _points(found[1]) if found else None
        choice = re.sub(r"\s", "", bare).upper()
        if choice in WINS:
            return choice
        found = _SENTENCE.fullmatch(re.sub(r"\*+|`+|__", "", bare)) if sentences and _is_balanced(bare) else None
        return re.sub(r"\s", "", found[1]).upper() if found else None

    def _json(self, text: str) -> Verdict | None:
        """The verdict in a JSON object, under the usual keys; of points for several criteria it is the mean."""
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(row, dict):
            return None
        values = {str(key).strip().lower(): value for key, value in row.items()}
        if self.points:
            named = [values[key] for key in _POINTS_KEYS if key in values]
            numbers = [_points(value) for value in named[:1] or values.values() if _is_number(value)]
            known = [number for number in numbers if number is not None]
            return sum(known) / len(known) if known and len(known) == len(numbers) else None
        named = [self._short(values[key]) for key in _CHOICE_KEYS if isinstance(values.get(key), str)]
        verdicts = {verdict for verdict in named if verdict is not None}
        return verdicts.pop() if len(verdicts) == 1 else None


def _after_thinking(text: str) -> str | None:
    """What follows the thoughts, of which a server's template may have opened the first; None where they never end."""
    text = re.split(rf"</(?:{_THINKING})>", text, flags=re.IGNORECASE)[-1]
    return None if re.search(rf"<(?:{_THINKING})>", text, re.IGNORECASE) else text.strip()


def _parts(text: str) -> Iterator[str]:
    """The texts that may be JSON: the whole, its code blocks, and what stands in braces at its end."""
    yield text
    yield from re.findall(r"```\w*\s(.*?)```", text, re.DOTALL)
    if found := re.search(r"\{[^{}]*\}\s*$", text):
        yield found[0]


def _unwrapped(text: str) -> str:
    """A text without the brackets, quotes, bold, tags, code fences or one full stop around it."""
    text = text.strip()
    while True:
        if block := re.fullmatch(r"```\w*\s(.*?)```|<(\w+)>(.*)</\2>", text, re.DOTALL):
            inner = (block[1] if block[1] is not None else block[3]).strip()
        else:
            for left, right in _WRAPPERS:
                inner = text[len(left) : len(text) - len(right)].strip()
                if text.startswith(left) and text.endswith(right) and inner and not (right == "." and inner[-1] == "."):
                    break
            else:
                return text
        if not inner:
            return text
        text = inner


def _is_balanced(text: str) -> bool:
    """True where every bracket and bold mark has its other half."""
    pairs = all(text.count(left) == text.count(right) for left, right in ("[]", "()"))
    return pairs and text.count("**") % 2 == 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) or bool(re.fullmatch(_POINTS, str(value)))


def _points(value: Any) -> float | None:
    """Points within their range; None beyond it."""
    try:
        number = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return None
    return number if LOWEST <= number <= HIGHEST else None
