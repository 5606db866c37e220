"""A judge's verdict as it is read from its answer."""

from .judge_cache import Verdict

# What may stand around a verdict, left and right.
_WRAPPERS = (
    *(("**", "**"), ("__", "__"), ("[", "]"), ("(", ")"), ("{", "}")),
    *(('"', '"'), ("'", "'"), ("`", "`"), ("“", "”"), ("‘", "’"), ("", ".")),
)


def parse_verdict(text: str) -> Verdict | None:
    """A or B, alone or in whitespace, brackets, quotes, bold or before one full stop; None for anything else."""
    text = text.strip()
    while text not in ("A", "B"):
        for left, right in _WRAPPERS:
            inner = text[len(left) : len(text) - len(right)].strip()
            if text.startswith(left) and text.endswith(right) and inner and not (right == "." and inner[-1] == "."):
                break
        else:
            return None
        text = inner
    return "A" if text == "A" else "B"
