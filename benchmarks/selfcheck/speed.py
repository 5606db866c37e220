"""`bench speed`: ours beside TRL and transformers, the same pairs, model and mathematics, in one run.

Runs alternate, and a ratio is one of medians. Each side has a process of its own, in which it runs as it comes: ours
with freed memory kept (`runtime/memory.py`). A step's time is that between two lines of the training log; the first
step and those in which the policy was looked at (`training/probe.py`) are left out.
"""

import contextlib
import multiprocessing
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.llama import LlamaModel

from ...methods.dpo import DPO
from ...methods.orpo import ORPO
from ...methods.ppo import PPO
from ...methods.rloo import RLOO
from ...models.checkpoint import Checkpoint
from ...models.policy import Policy
from ...models.sampling import sample
from ...models.tuning import Tuning, has_fast_bf16
from ...results.records import Pair, Prompt
from ...results.store import Store
from ...runtime.device import processor
from ...runtime.memory import keep_freed
from ...runtime.quiet import quiet
from ...training.ledger import Ledger
from ...training.task import Budget, PromptDataset, TrainingTask
from ..context import Workshop
from ..definition.spec import Supervised, SupervisedFineTuning
from ..stages.trained import pair_dataset, train_reward_model, train_sft
from .peak_memory import PeakMemory
from .speed_page import line

BATCH, VOCABULARY, SHORTEST, LONGEST = 16, 4096, 16, 80
TUNING = Tuning(precision="fp32", device="cpu")
LR = 1e-4


@dataclass(frozen=True)
class Step:
    """The cost of a step (a round, a generation) of one side, the median within a run."""

    seconds: float
    tokens: float
    """That went through the model forward, padding included."""
    memory: float = 0.0
    """Megabytes at the run's peak, beyond what was in use before it."""


@dataclass(frozen=True)
class Work:
    """Two sides of one kind of work; each is called with a folder that is not there yet."""

    what: str
    target: float
    needed: float | None
    """Tokens a step that have to go through the model, each distinct prompt once and no padding; None: not counted."""
    ours: Callable[[Path], Step]
    peer: Callable[[Path], Step]


class Bench:
    """The model and the pairs that both sides get."""

    def __init__(self, folder: Path, seed: int = 0):
        rng = random.Random(seed)
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=6,
            num_attention_heads=8,
            num_key_value_heads=8,
            max_position_embeddings=512,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )
        self.sft = Checkpoint(folder / "model", key="speed")
        model = LlamaForCausalLM(config)
        self.weights = sum(p.numel() for p in model.parameters())
        model.save_pretrained(self.sft.path)
        vocabulary = {"<pad>": 0, "</s>": 1, **{f"w{i}": i for i in range(2, VOCABULARY)}}
        words = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<pad>"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>").save_pretrained(
            self.sft.path
        )

        def ids() -> tuple[int, ...]:
            return tuple(rng.randrange(2, VOCABULARY) for _ in range(rng.randint(SHORTEST, LONGEST)))

        turns = ({"role": "user", "content": "?"},)
        self.pairs = [Pair(f"pair{i}", Prompt(f"p{i}", turns, ids()), ids(), ids()) for i in range(512)]

    def task(self, out: Path, examples: int, max_new_tokens: int = 64) -> TrainingTask:
        out.mkdir(parents=True)
        prompts = PromptDataset([p.prompt for p in self.pairs], max_new_tokens)
        reward = lambda responses: [float(len(set(g.response))) for g in responses]  # noqa: E731
        shop = Workshop(Store(out.parent.parent / "store"), TUNING, {})
        pairs = pair_dataset(shop, self.sft, self.pairs)
        return TrainingTask(self.sft, pairs, prompts, reward, Budget(examples), 0, out, TUNING)

    def mean(self, tokens: Callable[[Pair], int]) -> float:
        return statistics.mean(map(tokens, self.pairs))


def works(bench: Bench, steps: int) -> dict[str, Work]:
    """All that is measured, by name."""
    from ...methods.trl_offline import TRLDPO, TRLORPO
    from ...methods.trl_online import TRLRLOO
    from . import speed_peers as peers

    once = BATCH * bench.mean(lambda p: len(p.prompt.ids) + len(p.chosen) + len(p.rejected))
    chosen = BATCH * bench.mean(lambda p: len(p.prompt.ids) + len(p.chosen))

    def train(method: Any, out: Path, examples: int = BATCH * steps, every: int = 1) -> Step:
        task = bench.task(out, examples)
        task.pairs.reference()
        return steps_of(lambda: method.train(task), every)

    def supervised(out: Path) -> Step:
        settings = SupervisedFineTuning(examples=BATCH * steps, lr=LR, batch_size=BATCH)
        shop = Workshop(Store(out), TUNING, {})
        return steps_of(lambda: train_sft(shop, bench.sft, settings, bench.pairs, bench.pairs[:1]))

    def reward_model(out: Path) -> Step:
        settings = Supervised(examples=BATCH * steps, lr=LR, batch_size=BATCH)
        shop = Workshop(Store(out), TUNING, {})
        return steps_of(lambda: train_reward_model(shop, bench.sft, settings, bench.pairs, bench.pairs[:1], 1))

    def peer(trainer: Callable[..., None], out: Path) -> Step:
        return steps_of(lambda: trainer(bench.task(out, BATCH * steps), LR, BATCH))

    prompts = [p.prompt for p in bench.pairs[:32]]

    def generation(generate: Callable[[Policy], Any], out: Path) -> Step:
        policy = Policy.open(bench.sft, TUNING, trainable=False)
        generate(policy)  # the first time of anything takes longer
        started = time.perf_counter()
        generate(policy)
        return Step(time.perf_counter() - started, 0)

    offline: dict[str, Any] = {"lr": LR, "batch_size": BATCH}
    online: dict[str, Any] = {"lr": LR, "rollout_size": 32, "minibatch_size": 16, "epochs": 2, "samples_per_prompt": 4}
    rounds = 10  # our probe looks at the policy in four of them
    return {
        "dpo": Work(
            "DPO, reference log-probs computed before",
            2.5,
            once,
            partial(train, DPO(**offline)),
            partial(train, TRLDPO(**offline, precompute_reference=True)),
        ),
        "dpo_default": Work(
            "DPO, each as it comes, but both in fp32: TRL recomputes activations and the reference at each step, ours "
            "has the reference from before, once for all trainings",
            4.0,
            once,
            partial(train, DPO(**offline)),
            partial(train, TRLDPO(**offline, gradient_checkpointing=True)),
        ),
        "orpo": Work(
            "ORPO, NLL of prompt and chosen response",
            2.5,
            once,
            partial(train, ORPO(**offline, nll_scope="prompt+response")),
            partial(train, TRLORPO(**offline)),
        ),
        "reward_model": Work("reward model on pairs", 1.5, once, reward_model, partial(peer, peers.train_reward_model)),
        "sft": Work("SFT on chosen responses", 1.5, chosen, supervised, partial(peer, peers.train_sft)),
        "generation": Work(
            "32 prompts, 64 new tokens each, none ends early, beside transformers' generate",
            1.3,
            None,
            partial(generation, lambda policy: sample(policy, prompts, max_new_tokens=64, seed=0)),
            partial(generation, lambda policy: peers.generate(policy, prompts, 64)),
        ),
        "rloo": Work(
            "a round of RLOO: 8 prompts, 4 responses of 64 tokens to each, 2 epochs",
            1.5,
            None,
            partial(train, RLOO(**online), examples=32 * rounds),
            partial(train, TRLRLOO(**online), examples=32 * rounds, every=2 * 32 // 16),
        ),
        "ppo": Work(
            "the same round of PPO, values from the policy's trunk, beside one of TRL's RLOO, which has no values",
            2.0,
            None,
            partial(train, PPO(**online, critic_start="policy", critic_warmup=0), examples=32 * rounds),
            partial(train, TRLRLOO(**online), examples=32 * rounds, every=2 * 32 // 16),
        ),
        "ppo_own_critic": Work(
            "the same round of PPO with a critic of its own, a second network, beside one of TRL's RLOO without",
            2.0,
            None,
            partial(train, PPO(**online, critic_lr=LR, critic_warmup=0), examples=32 * rounds),
            partial(train, TRLRLOO(**online), examples=32 * rounds, every=2 * 32 // 16),
        ),
    }


@contextlib.contextmanager
def listening(hear: Callable[..., None]) -> Iterator[None]:
    """Calls hear(model, input_ids, attention_mask, **more) before each forward pass through a Llama's layers."""
    forward = LlamaModel.forward

    def heard(self: LlamaModel, input_ids: Any = None, attention_mask: Any = None, *args: Any, **more: Any) -> Any:
        hear(self, input_ids, attention_mask, **more)
        return forward(self, input_ids, attention_mask, *args, **more)

    LlamaModel.forward = heard
    try:
        yield
    finally:
        LlamaModel.forward = forward


def steps_of(work: Callable[[], Any], every: int = 1) -> Step:
    """The median step of some training; a step ends with each line (or each so many) that it logs."""
    seen: list[tuple[float, int, int]] = []
    tokens, log = 0, Ledger.log

    def count(model: LlamaModel, ids: Any, mask: Any, **more: Any) -> None:
        nonlocal tokens
        tokens += ids.numel()

    def mark(self: Ledger, **values: float) -> None:
        seen.append((time.perf_counter(), tokens, len(values)))
        log(self, **values)

    with listening(count), mock.patch.object(Ledger, "log", mark):
        work()
    return median_step(seen[::-every][::-1])


def median_step(seen: list[tuple[float, int, int]]) -> Step:
    """The median step, from each line's time, tokens until then, and how many figures it tells.

    The first step, which ends with the first line, is left out; so are those whose line does not tell as many figures
    as most do, for in them the policy was looked at as well.
    """
    plain = statistics.mode(figures for *_, figures in seen)
    differences = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(seen, seen[1:], strict=False) if b[2] == plain]
    return Step(*(statistics.median(column) for column in zip(*differences, strict=True)))


@lru_cache
def _works(folder: Path, steps: int) -> dict[str, Work]:
    return works(Bench(folder), steps)


def run_side(name: str, side: str, folder: Path, number: int, steps: int) -> Step:
    """One run of one side; folder: of this side, kept from run to run."""
    run = getattr(_works(folder, steps)[name], side)
    with PeakMemory() as memory:
        step = run(folder / f"{name} {number}" / side)
    return replace(step, memory=memory.bytes / 1e6)


@contextlib.contextmanager
def sides() -> Iterator[dict[str, Executor]]:
    """A process for each side."""
    spawn = multiprocessing.get_context("spawn")
    start = {"ours": keep_freed, "peer": None}
    with contextlib.ExitStack() as stack:
        yield {
            side: stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn, initializer=_start, initargs=(first,)))
            for side, first in start.items()
        }


def _start(first: Callable[[], None] | None) -> None:
    quiet()
    sys.stdout = sys.stderr  # trainers print their logs, and stdout is for the figures
    if first:
        first()


def measure(names: list[str], runs: int, steps: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Both sides of each work in turn, `runs` times; JSON with machine, versions and date."""
    found: dict[str, Any] = {}
    peak = matrix_rate()
    with tempfile.TemporaryDirectory() as folder, sides() as processes:
        bench = Bench(Path(folder) / "bench")
        known = works(bench, steps)
        for name in names:
            taken: dict[str, list[Step]] = {side: [] for side in processes}
            for number in range(runs):
                for side, process in processes.items():
                    run = process.submit(run_side, name, side, Path(folder) / side, number, steps)
                    taken[side].append(run.result())
            found[name] = summary(known[name], taken, bench.weights, peak)
            say(line(name, found[name]))
    return {
        "work": found,
        "steps": steps,
        "matrix_gflops": round(peak / 1e9, 1),
        "machine": {
            "platform": platform.platform(),
            "processor": processor(),
            "has_bf16_units": has_fast_bf16("cpu"),
            "device": TUNING.device,
            "threads": torch.get_num_threads(),
        },
        "packages": {name: version(name) for name in ("torch", "transformers", "trl", "alignment-bench")},
        "date": datetime.now(UTC).date().isoformat(),
    }


def summary(work: Work, sides: dict[str, list[Step]], weights: int, peak: float) -> dict[str, Any]:
    """Medians over the runs, their ratio, and the range of the ratios run by run."""
    seconds = {side: statistics.median(step.seconds for step in taken) for side, taken in sides.items()}
    each = [peer.seconds / ours.seconds for ours, peer in zip(sides["ours"], sides["peer"], strict=True)]
    found: dict[str, Any] = {"what": work.what, "target": work.target}
    for side, taken in sides.items():
        memory = statistics.median(step.memory for step in taken)
        found[side] = {"seconds": seconds[side], "steps_per_second": 1 / seconds[side], "peak_megabytes": memory}
        if work.needed is not None:
            tokens = statistics.median(step.tokens for step in taken)
            found[side] |= {
                "tokens_per_second": work.needed / seconds[side],
                "executed_over_needed": tokens / work.needed,
                "matrix_rate_share": 6 * weights * work.needed / seconds[side] / peak,
            }
    return found | {"ratio": seconds["peer"] / seconds["ours"], "ratios": each}


def matrix_rate(size: int = 1024, seconds: float = 1.0) -> float:
    """Operations a second of fp32 matrix products, measured now."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    a @ b
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        a @ b
        done += 1
    return done * 2 * size**3 / (time.perf_counter() - started)
