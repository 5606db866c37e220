"""Numbers in words: units, rounding at their edges, and what was not measured."""

import math

import pytest

from alignment_bench.analysis.quantities import cost, in_points, number, p_value, scaled, seconds, share


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (seconds(9.34), "9.3 s"), (seconds(41.7), "42 s"), (seconds(134.2), "2 min 14 s"),
        (seconds(7260), "2 h 01 min"),
        (scaled(9999), "9,999"), (scaled(10_000), "10.0 k"), (scaled(412_345), "412 k"),
        (scaled(999_400), "999 k"), (scaled(999_999), "1.00 M"), (scaled(1_000_000), "1.00 M"),
        (scaled(3e15), "3000 T"),
        (cost(1812.4, "peak_memory_mb"), "1.77 GiB"), (cost(871, "peak_memory_mb"), "871 MiB"),
        (cost(3.21e13, "flops"), "32.1 TFLOP"), (cost(1e12, "flops"), "1.00 TFLOP"), (cost(999, "flops"), "999 FLOP"),
        (cost(9600, "reward_queries"), "9,600"), (cost(12.0, "rollout_seconds"), "12 s"),
        (share(0.6449), "64.5%"), (share(-0.5), "−50.0%"), (number(-0.023), "−0.02"), (number(1234.5), "1,234"),
        (in_points("1"), "1 point"), (in_points("-1"), "-1 point"), (in_points("+11"), "+11 points"),
        (p_value(0.0004), "< 0.001"), (p_value(0.05), "0.050"),
    ],
)  # fmt: skip
def test_values_have_units_and_few_digits(written, expected):
    assert written == expected


@pytest.mark.parametrize("write", [seconds, scaled, share, number, p_value, lambda v: cost(v, "flops")])
@pytest.mark.parametrize("value", [None, math.nan, math.inf, "7", True])
def test_what_is_no_number_is_a_dash(write, value):
    assert write(value) == "–"
