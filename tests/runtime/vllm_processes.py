"""One of two processes, or one alone, that sample by vLLM: vllm_processes.py MODEL LORA_RANK.

Prints a line of JSON: how many prompts its own engine answered, responses to 5 prompts and to 1, those after the
weights were changed, and one to a prompt so long that another engine starts; the same in both.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where tasks.py is

import torch
from tasks import TUNING

from alignment_bench.models import sampler_vllm
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.models.policy import Policy
from alignment_bench.models.sampling import sample
from alignment_bench.results.records import Prompt
from alignment_bench.runtime import launch, processes

PROMPTS = [Prompt(str(i), (), (0, 10, *range(11, 13 + 3 * i))) for i in range(5)]


def main(folder: str, lora_rank: int) -> None:
    launch.start("cpu")
    out = sys.__stdout__
    torch.manual_seed(0)  # adapters start with random numbers
    policy = Policy.open(
        Checkpoint(Path(folder), key=""), replace(TUNING, sampler="vllm", lora_rank=lora_rank), trainable=True
    )
    answered = []
    start = sampler_vllm._engine

    def watched(*given):
        engine = start(*given)
        if not hasattr(engine, "asked"):
            engine.asked, generate = 0, engine.generate

            def counted(asked, *more, **how):
                answered.append(len(asked))
                return generate(asked, *more, **how)

            engine.generate = counted
        return engine

    sampler_vllm._engine = watched

    def drawn(prompts):
        return [s.ids for s in sample(policy, prompts, max_new_tokens=8, seed=3, together=True)]

    found = {"several": drawn(PROMPTS), "one": drawn(PROMPTS[:1])}  # of one prompt the second process has none
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.network.parameters:
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    found["changed"] = drawn(PROMPTS)
    found["long"] = drawn([Prompt("long", (), (0, *(5 + i % 250 for i in range(1200))))])
    print(json.dumps({**found, "answered": answered, "processes": processes.size()}), file=out, flush=True)


main(sys.argv[1], int(sys.argv[2]))
