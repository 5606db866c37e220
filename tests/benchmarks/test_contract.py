"""A contract names how many processes trained, and what they divided among them."""

import pytest

from alignment_bench.benchmarks.contract import arrangement
from alignment_bench.runtime import processes, zero

ZERO = {"ACCELERATE_USE_DEEPSPEED": "true"}


@pytest.mark.parametrize(
    ("variables", "divided"),
    [
        ({}, "nothing"),
        ({"ACCELERATE_USE_FSDP": "true"}, "weights, gradients, moments"),
        (ZERO, "gradients, moments"),  # accelerate's default is stage 2
        (ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}, "moments"),
        (ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}, "gradients, moments"),
    ],
)
def test_processes_and_what_they_divide(monkeypatch, variables, divided):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "_SIZE", 3)
    monkeypatch.setattr(zero, "find_spec", lambda name: True)
    assert arrangement() == {"count": 3, "divided": divided}
