"""The careful interval of a change, by hand."""

from math import sqrt

import numpy as np
import pytest
from scipy.stats import t

from alignment_bench.analysis.paired_change import by_prompt, careful_mean, paired_change, span

NAN = float("nan")


def limits(values, tail):
    """Student's interval, by the book."""
    half = t.ppf(1 - tail, len(values) - 1) * np.std(values, ddof=1) / sqrt(len(values))
    return np.mean(values) - half, np.mean(values) + half


def test_the_lower_limit_survives_a_prompt_that_the_sample_missed():
    """80 losses of 0.02 to 0.04: with one more of -0.1 mean 0.028 and t 16, of -1 mean 0.017, sd 0.11 and t 1.4."""
    values = np.linspace(0.02, 0.04, 80)
    for reach, shown in ((0.1, True), (1.0, False)):
        found = careful_mean(values, 0.05, reach)
        assert found.mean == pytest.approx(0.03) and found.n == 80
        assert found.low == pytest.approx(limits([*values, -reach], 0.025)[0]) and (found.low > 0) == shown
        assert found.high == pytest.approx(limits(values, 0.025)[1])


def test_where_values_vary_enough_students_limit_is_the_lower_one():
    """With -4, 4 and reach 0 the added value lowers the spread by more than the mean."""
    values = np.array([-4.0, 4.0, -4.0, 4.0])
    assert careful_mean(values, 0.05, 0.0).low == pytest.approx(limits(values, 0.025)[0])


def test_the_change_is_each_prompts_mean_over_its_seeds():
    ours, theirs = np.array([[1.0, NAN, 3.0], [2.0, 5.0, NAN]]), np.array([[0.0, 1.0, NAN], [0.0, 1.0, 1.0]])
    assert by_prompt(ours - theirs)[:2].tolist() == [1.5, 4.0] and np.isnan(by_prompt(ours - theirs)[2])
    found = paired_change(ours, theirs, 0.05, 0.0)
    assert (found.mean, found.n) == (2.75, 2) and found.high == pytest.approx(limits([1.5, 4.0], 0.025)[1])


def test_the_span_of_values():
    assert span(np.array([[1.0, NAN], [-2.0, 4.0]])) == 6.0 and span(np.array([[NAN]])) == 0.0
