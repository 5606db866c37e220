"""Contrast pairs: kept apart from labels, drawn alike again, and worse in one of four ways."""

from collections import Counter

import pytest

from alignment_bench.results.records import Pair, Prompt
from alignment_bench.training.contrast import contrast_pair, with_contrast

EOS = 1


def pair(i, prompt=None):
    """Replies of five tokens that no other pair has."""
    ask = Prompt(f"p{i if prompt is None else prompt}", (), (9, i))
    return Pair(f"x{i}", ask, (*range(100 * i, 100 * i + 5), EOS), (*range(100 * i + 50, 100 * i + 55), EOS))


PAIRS = [pair(i) for i in range(1, 9)]
REPLIES = {reply: p.prompt.id for p in PAIRS for reply in (p.chosen, p.rejected)}


def kind(made):
    """How the worse reply came about; checks that the better one is the prompt's own."""
    assert REPLIES[made.chosen] == made.prompt.id and made.rejected[-1] == EOS
    body, worse = made.chosen[:-1], made.rejected[:-1]
    if made.rejected in REPLIES:
        assert REPLIES[made.rejected] != made.prompt.id
        return "another prompt's"
    if worse == body[: len(worse)]:
        assert 0 < len(worse) < 5
        return "cut"
    if len(worse) > len(body):
        assert worse == body + body
        return "repeated"
    assert sorted(worse) == sorted(body) and worse != body
    return "scrambled"


def test_the_labelled_pairs_come_first_and_contrast_pairs_are_their_share():
    """Of 8 pairs at a share of 0.4: 8 * 0.4 / 0.6 = 5.3 more."""
    found = with_contrast(PAIRS, 0.4, seed=3, longest=20)
    assert len(found) == 8 + 5 and list(found[:8]) == PAIRS
    assert [found[i] for i in range(8, 13)] == [found[i] for i in range(8, 13)] == list(found[8:])
    assert list(found[8:]) != list(with_contrast(PAIRS, 0.4, seed=4, longest=20)[8:])
    assert len({made.id for made in found}) == 13


def test_half_are_other_prompts_and_the_rest_damaged_alike():
    """600 draws: 300 and 100 of each, four standard deviations are 49 and 37; chosen and rejected alike."""
    made = [contrast_pair(PAIRS, f"n{i}", 20) for i in range(600)]
    found = Counter(map(kind, made))
    assert found["another prompt's"] == pytest.approx(300, abs=49)
    assert all(found[name] == pytest.approx(100, abs=37) for name in ("cut", "repeated", "scrambled"))
    assert sum(m.chosen in {p.chosen for p in PAIRS} for m in made) == pytest.approx(300, abs=49)


def test_a_repeated_reply_is_no_longer_than_replies_may_be():
    made = [contrast_pair(PAIRS, f"n{i}", 8) for i in range(200)]
    assert max(len(m.rejected) for m in made) == 8
    assert {len(m.rejected) for m in made if m.rejected[:5] == m.chosen[:5]} == {8}


def test_where_there_is_no_other_prompt_replies_are_damaged():
    alone = [pair(i, prompt=1) for i in (1, 2)]
    assert all(contrast_pair(alone, f"n{i}", 20).rejected not in REPLIES for i in range(30))
    short = Pair("x", Prompt("p", (), (9,)), (7, EOS), (7, EOS))  # can only be repeated
    assert contrast_pair([short], "n", 20).rejected == (7, 7, EOS)
    assert contrast_pair([Pair("x", short.prompt, (EOS,), (EOS,))], "n", 20).rejected == (EOS,)
