"""Pairs that do not fit a benchmark, counted by reason, and the setting under which each kind would."""

from collections import Counter
from collections.abc import Sequence

from ..definition.spec import BenchmarkSpec
from .prompts import Shown

SAME = "same tokens as another row"


class Misfits:
    """The count of rows that are left out, by reason. Nothing is truncated."""

    def __init__(self, spec: BenchmarkSpec):
        self.spec = spec
        self.count: Counter[str] = Counter()
        self.longest = {"prompt": 0, "reply": 0}  # tokens, of all rows

    @property
    def _limits(self) -> dict[str, tuple[str, int]]:
        spec = self.spec
        return {
            "prompt": ("max_prompt_tokens", spec.max_prompt_tokens),
            "reply": ("max_response_tokens", spec.max_response_tokens),
        }

    def has(self, prompt: Shown | str, *replies: Sequence[int]) -> bool:
        """Count a row that is left out, and say so. prompt: as the model sees it, or why its template refuses it."""
        reason = prompt if isinstance(prompt, str) else self._too_long(prompt.ids, *replies)
        if reason is None and len(replies) == 2 and replies[0] == replies[1]:
            reason = "chosen and rejected have the same tokens"
        if reason:
            self.count[reason] += 1
        return reason is not None

    def _too_long(self, prompt: Sequence[int], *replies: Sequence[int]) -> str | None:
        lengths = {"prompt": len(prompt), "reply": max(map(len, replies), default=0)}
        self.longest = {what: max(length, self.longest[what]) for what, length in lengths.items()}
        long = [what for what, length in lengths.items() if length > self._limits[what][1]]
        return self._reason(long[0]) if long else None

    def _reason(self, what: str) -> str:
        return f"{what} longer than {self._limits[what][1]} tokens"

    def settings(self) -> dict[str, str]:
        """The setting, by reason, under which no row would be left out for it."""
        return {
            self._reason(what): f"{field}={self.longest[what]}"
            for what, (field, _) in self._limits.items()
            if self._reason(what) in self.count
        }

    def told(self) -> str:
        """The reasons with their counts and settings, in words."""
        fits = {reason: f", which {setting} fits" for reason, setting in self.settings().items()}
        return "; ".join(f"{count} {reason}{fits.get(reason, '')}" for reason, count in self.count.most_common())
