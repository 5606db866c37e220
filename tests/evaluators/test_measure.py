"""Numbers of responses by functions of one's own: names, values, their code, and what cannot be used."""

import pytest

from alignment_bench.analysis.metric_names import title
from alignment_bench.errors import InputError
from alignment_bench.evaluators.measure import Measure
from alignment_bench.results.records import Generation, Score

FUNCTIONS = """
def asks(prompt, response):
    return {"reward": response.count("?") + 10 * (prompt[-1]["content"] == "Why?")}


def nothing(prompt, response):
    return {}
"""


@pytest.fixture(autouse=True)
def functions(tmp_path, monkeypatch):
    (tmp_path / "my_measures.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)


def answer(prompt_id: str, question: str, response: str) -> Generation:
    return Generation(prompt_id, ({"role": "user", "content": question},), response, length=3, finished=True)


def test_every_function_yields_its_number_of_the_policys_responses():
    made = Measure({"asks": "my_measures:asks", "kind": "alignment_bench.benchmarks.world:friendliness"})
    ours = [answer("p1", "Why?", "Who? When?"), answer("p2", "Go.", "Gone. I hope this helps you a lot.")]
    theirs = [answer("p1", "Why?", "?????"), answer("p2", "Go.", "?????")]
    assert list(made.score(ours, theirs)) == [
        Score("measure.asks", "p1", 12.0),
        Score("measure.asks", "p2", 0.0),
        Score("measure.kind", "p1", 0.0),
        Score("measure.kind", "p2", 1.0),
    ]
    assert made.calls == ("my_measures:asks", "alignment_bench.benchmarks.world:friendliness")
    assert title("measure.asks") == "Mean (asks)"


def test_a_function_that_is_none_is_told_before_and_one_without_a_number_when_it_is_asked():
    with pytest.raises(InputError, match=r"^measure: functions.asks 'my_measures:no' cannot be loaded"):
        Measure({"asks": "my_measures:no"})
    made = Measure({"asks": "my_measures:nothing"})
    with pytest.raises(InputError, match=r"^measure: functions.asks: my_measures:nothing returned \{\} for prompt p1"):
        list(made.score([answer("p1", "Why?", "")], []))
