"""Judging in batches until it is decided whether a policy beats the baseline."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from ..analysis.sequential import UNTIL_DECIDED, asking_order, is_decided
from ..results.records import Generation, Score

BATCH = 20  # prompts a batch: looking more often would ask an endpoint less at once and save little
Pair = tuple[Generation, Generation]


def judge_until_decided(
    judge: Callable[[Sequence[Pair]], Iterable[Score]], pairs: Sequence[Pair], alpha: float, batch: int = BATCH
) -> Iterator[Score]:
    """Judge pairs (ours, baseline's) batch by batch until the win rate is shown to differ from one half at level alpha.

    judge: scores of some pairs, `win_rate.judge` among them. That metric comes out under the name UNTIL_DECIDED, for it
    is not a score of all prompts and its interval has to allow for the stopping. Prompts that were not reached get no
    score; invalid verdicts (None) are no evidence.
    """
    by_prompt = {ours.prompt_id: (ours, theirs) for ours, theirs in pairs}
    order = [by_prompt[name] for name in asking_order(by_prompt)]
    known: list[float] = []
    for start in range(0, len(order), batch):
        for score in judge(order[start : start + batch]):
            if score.metric != "win_rate.judge":
                yield score
                continue
            yield replace(score, metric=UNTIL_DECIDED)
            if score.value is not None:
                known.append(score.value)
        if is_decided(known, alpha):
            return
