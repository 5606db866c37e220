"""The first sentence of a text."""

import re
from typing import Literal

Stop = Literal["eos", "sentence"]  # where a sampled response ends

# Full stops that end no sentence: of titles and other short forms, and of initials.
_SHORT = "Mr Mrs Ms Dr Prof St Jr Sr vs etc e.g i.e No approx".split()
_NOT_BEHIND = "".join(rf"(?<!\b{re.escape(word)})" for word in _SHORT) + r"(?<!\b[A-HJ-Z])"
END = re.compile(rf"(?:{_NOT_BEHIND}\.|[!?…])[.!?…]*[\"'”’)\]]*(?=\s|$)")


def first_sentence(text: str, is_whole: bool = False) -> str | None:
    """The text up to the end of its first sentence, or None where it has none before a line ends.

    The end is `.`, `!`, `?` or `…` with what closes behind it, before white space or the text's end. is_whole: the text
    ended by itself; else a number's full stop at its very end may be that of a fraction (3.|5), and ends no sentence.
    """
    line = text.strip().partition("\n")[0].rstrip()
    for end in END.finditer(line):
        is_last = end.end() == len(text.strip())
        if is_whole or not is_last or not re.search(r"\d\.$", line):
            return line[: end.end()]
    return None
