"""A judge's cost, estimated before and counted after."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...evaluators.judge import OPENAI, Judge, member_name
from ...evaluators.judge_cache import Usage
from ...evaluators.judge_question import is_pointwise, read_template

CHARACTERS = 4  # of English text in a token, roughly; an endpoint's own tokenizer is not at hand
OVERHEAD = 10  # tokens that a chat template adds to a question


def estimate(judge: Judge, questions: Sequence[str]) -> str:
    """The estimated cost of asking one endpoint these questions, in words."""
    tokens = sum(math.ceil(len(q) / CHARACTERS) + OVERHEAD for q in questions)
    return f"{len(questions)} questions, about {tokens:,} tokens in{_dollars(judge, tokens, len(questions), 'about')}"


def most(judge: Judge, rows: int, seeds: int, prompts: int, question_tokens: int) -> str | None:
    """The most that a run of so many rows can cost at endpoints, in words; None for local judges alone.

    question_tokens: the longest question, by the benchmark's tokenizer. Verdicts on disk make it less.
    """
    endpoints = sum(model.startswith(OPENAI) for model in judge.models)
    if not endpoints:
        return None
    each = rows * asked_of_a_row(judge, prompts) + asked_of_sft(judge, prompts)
    direct = endpoints * seeds * math.comb(rows, 2) * asked_of_two_rows(judge, prompts)
    questions = endpoints * seeds * each + direct
    tokens = questions * (question_tokens + OVERHEAD)
    answers = questions * judge.longest_answer
    pairs = f" ({direct:,} of them on rows against each other, see --judge-pairs)" if direct else ""
    return f"at most {questions:,} questions{pairs}, {tokens:,} tokens in{_dollars(judge, tokens, answers, 'at most')}"


def asked_of_a_row(judge: Judge, prompts: int) -> int:
    """Questions to each model about a row's responses to so many prompts."""
    judged = min(prompts, judge.limit or prompts)
    again = min(judge.repeats, judged)
    if is_pointwise(read_template(judge.prompt)):  # each response once, whatever it is compared with
        return judged + again
    return 2 * judged * (1 + len(judge.facets)) + again


def asked_of_sft(judge: Judge, prompts: int) -> int:
    """Questions to each model about SFT's responses alone: for points, and none where they meet themselves."""
    return min(prompts, judge.limit or prompts) if is_pointwise(read_template(judge.prompt)) else 0


def asked_of_two_rows(judge: Judge, prompts: int) -> int:
    """Questions to each model about two rows beside each other; of points there are none."""
    judged = min(prompts, judge.limit or prompts)
    return 0 if is_pointwise(read_template(judge.prompt)) else 2 * min(judged, judge.direct)


def bill(judge: Judge, usage: Usage) -> str:
    """The cost of a judge's verdicts, in words; those found on disk were paid before."""
    text = f"{usage.asked:,} questions asked, {usage.verdicts:,} verdicts used"
    if not usage.tokens_in:
        return text
    dollars = _dollars(judge, usage.tokens_in, usage.tokens_out, "in all")
    return f"{text}, which took {usage.tokens_in:,} tokens in and {usage.tokens_out:,} out{dollars}"


def usage_of(judge: Judge, used: Mapping[str, Usage]) -> dict[str, dict[str, Any]]:
    """For summary.json: verdicts and tokens by member, paid now or before, and dollars where a price is known."""
    found = {}
    for model in judge.models:
        usage = used[member_name(model)]
        found[member_name(model)] = {
            "verdicts": usage.verdicts,
            "tokens_in": usage.tokens_in,
            "tokens_out": usage.tokens_out,
            "dollars": judge.dollars(usage.tokens_in, usage.tokens_out) if model.startswith(OPENAI) else 0.0,
        }
    return found


def _dollars(judge: Judge, tokens_in: int, tokens_out: int, how: str) -> str:
    dollars = judge.dollars(tokens_in, tokens_out)
    return "" if dollars is None else f", {how} ${dollars:.2f}" if dollars >= 0.005 else f", {how} ${dollars:.4f}"
