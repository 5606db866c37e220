"""The rate at which a policy's implicit reward orders held-out pairs as people did."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..results.lazy import LazySequence
from ..results.records import Generation, LabelledPair, Score, win
from .base import Conversation, OpenPolicy


@dataclass(frozen=True)
class ImplicitReward:
    """Yields `implicit_reward.accuracy`, `.margin` and `.chosen` on held-out pairs, whatever the method was.

    The implicit reward is beta * log(policy / SFT) of a response (Rafailov et al. 2023, arXiv:2305.18290, section 5);
    beta changes no order, so the margin is the one at beta = 1, in nats. SFT itself ties everywhere: accuracy one half.
    `chosen` is the log-ratio of the chosen replies alone, in nats: below 0 their likelihood was displaced (Razin et al.
    2024, arXiv:2410.08847).
    """

    pairs: Sequence[LabelledPair] = ()
    """Held-out pairs; filled in by the benchmark."""

    needs_policy = True
    needs_pairs = True

    def score(
        self,
        responses: Sequence[Generation],
        baseline: Sequence[Generation],
        *,
        policy: OpenPolicy,
        reference: OpenPolicy,
    ) -> Iterator[Score]:
        def text(place: int) -> Conversation:
            pair = self.pairs[place // 2]
            text = (pair.chosen, pair.rejected)[place % 2]
            return (pair.prompt, text, True) if pair.cut[place % 2] else (pair.prompt, text)

        texts = LazySequence(2 * len(self.pairs), text)
        ratios = [ours - theirs for ours, theirs in zip(policy.logps(texts), reference.logps(texts), strict=True)]
        by_prompt: dict[str, list[tuple[float, float]]] = {}
        for place, pair in enumerate(self.pairs):
            by_prompt.setdefault(pair.prompt_id, []).append((ratios[2 * place], ratios[2 * place + 1]))
        for prompt_id, rows in by_prompt.items():  # pairs of one prompt are not independent: their mean is one value
            accuracy = sum(win(chosen, rejected) for chosen, rejected in rows) / len(rows)
            yield Score("implicit_reward.accuracy", prompt_id, accuracy)
            margin = sum(chosen - rejected for chosen, rejected in rows) / len(rows)
            yield Score("implicit_reward.margin", prompt_id, margin)
            yield Score("implicit_reward.chosen", prompt_id, sum(chosen for chosen, _ in rows) / len(rows))
