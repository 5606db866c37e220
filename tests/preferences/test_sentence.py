"""The end of a first sentence."""

import pytest

from alignment_bench.preferences.sentence import first_sentence


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("great. And then", "great."),
        ('so "good." He', 'so "good."'),
        ("really?! Yes.", "really?!"),
        ("a 3.5 mile walk. Then", "a 3.5 mile walk."),
        ("owned by Mr. Smith and J. Doe. Then", "owned by Mr. Smith and J. Doe."),
        ("as tall as I. Then", "as tall as I."),
        ("  good.  ", "good."),
        ("fine!\nNext.", "fine!"),
        ("a line\nand a sentence.", None),
        ("without an end", None),
        ("", None),
    ],
)
def test_the_first_sentence_ends_where_a_reader_ends_it(text, expected):
    assert first_sentence(text) == expected


def test_a_number_at_the_end_of_a_cut_text_may_go_on():
    assert first_sentence("it cost 3.") is None
    assert first_sentence("it cost 3.", is_whole=True) == "it cost 3."
    assert first_sentence("it cost 3. Then") == "it cost 3."
