"""The cost of a data set's size: `python -m alignment_bench.benchmarks.selfcheck.scale`, on Linux.

Makes preference files of several sizes and measures, in a fresh process for each, CPU seconds and peak resident memory
of everything that goes over all pairs, with a model so small that the data is what counts. Writes scale.json and the
page derived from it, scale.md.
"""

import argparse
import csv
import gc
import gzip
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from ...runtime import memory

PUBLISHED = Path(__file__).parents[2] / "results" / "published"
SIZES = (1_000, 10_000, 100_000)
EXAMPLES = 64  # of the short training
MIB = 2**20
FILES = ("pairs.jsonl", "pairs.jsonl.gz", "pairs.csv", "pairs.parquet")
PHASES = {
    "load": "read, check, tokenize, split by prompt, write",
    "found": "open what is on disk, every file's hash checked",
    "digest": "hash of every pair's tokens",
    "reference": "reference log-probs of the training pairs",
    "order": "one epoch of the training pairs in their shuffled order",
    "train": f"DPO on {EXAMPLES} pairs, probes and saving included",
    **{f"rows of {name}": f"read and check the rows of {name}" for name in FILES},
}


def synthetic_rows(count: int, seed: int = 0) -> Iterator[dict[str, str]]:
    """Pairs of the built-in world's words, two to a prompt: prompts of 20 to 40 words, replies of 60 to 120."""
    from ..world import preference_rows

    texts = [m["content"] for row in preference_rows(300, 0) for m in (*row["prompt"], *row["chosen"])]
    words = sorted({word for text in texts for word in text.split()})
    rng = random.Random(seed)

    def text(shortest: int) -> str:
        return " ".join(rng.choices(words, k=rng.randint(shortest, 2 * shortest)))

    prompt = ""
    for number in range(count):
        prompt = prompt if number % 2 else text(20)
        yield {"prompt": prompt, "chosen": text(60), "rejected": text(60)}


def write_files(folder: Path, count: int) -> None:
    """The same pairs in every format."""
    with (
        open(folder / FILES[0], "w", encoding="utf-8") as plain,
        gzip.open(folder / FILES[1], "wt", encoding="utf-8", compresslevel=1) as packed,
        open(folder / FILES[2], "w", encoding="utf-8", newline="") as table,
    ):
        rows = csv.DictWriter(table, ["prompt", "chosen", "rejected"])
        rows.writeheader()
        for row in synthetic_rows(count):
            line = json.dumps(row) + "\n"
            plain.write(line)
            packed.write(line)
            rows.writerow(row)
    # as pandas and datasets leave it: all rows in one group, up to a million of them
    columns = pyarrow.Table.from_pylist(list(synthetic_rows(count)))
    pyarrow.parquet.write_table(columns, folder / FILES[3])


def save_model(folder: Path) -> None:
    """A language model of one layer, 16 wide, with the built-in model's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from ...models.find import find_model

    tokenizer = find_model("builtin/base_model", "--model").tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measure(folder: Path) -> dict[str, Any]:
    """Every phase on the files of a folder, after a warm-up on few rows, as JSON."""
    from ...methods.dpo import DPO
    from ...models.find import find_model
    from ...models.layout import count_tokens
    from ...models.tuning import Tuning
    from ...preferences.read import read_preferences
    from ...results.lazy import LazySequence
    from ...results.store import Store
    from ...runtime.quiet import quiet
    from ...training.task import Budget, TrainingTask, shuffled, sides_of
    from ..context import Workshop
    from ..data.corpus import load_corpus, rows_digest
    from ..definition.spec import BenchmarkSpec, RewardModels, SupervisedFineTuning
    from ..stages.trained import pair_dataset

    quiet()
    sft = find_model(str(folder / "model"), "--model")
    phases: dict[str, dict[str, float]] = {}
    peaks: list[int] = []

    def work(files: Path, phase: Callable[[str], Any]) -> int:
        sft_stage = SupervisedFineTuning(examples=EXAMPLES, lr=1e-3)
        reward_stage = RewardModels(examples=EXAMPLES, lr=1e-3)
        spec = BenchmarkSpec(
            name="scale", model=str(sft.path), preferences=str(files / FILES[0]), max_prompt_tokens=1000,
            max_response_tokens=1000, sft=sft_stage, reward_model=reward_stage, budget=EXAMPLES,
        )  # fmt: skip
        tuning = Tuning(precision="fp32", device="cpu")
        shop = Workshop(Store(files / "store"), tuning, {})
        with phase("load"):
            corpus = load_corpus(spec, sft, shop)
        with phase("found"):
            corpus = load_corpus(spec, sft, shop)
        with phase("digest"):
            for pairs in (corpus.sft, corpus.training, corpus.evaluation, corpus.heldout):
                rows_digest(LazySequence(len(pairs), pairs.__getitem__))
        dataset = pair_dataset(shop, sft, corpus.training)
        with phase("reference"):
            dataset.reference()
        with phase("order"):
            tokens = 0
            for place in islice(shuffled(len(dataset), seed=0), len(dataset)):
                tokens += count_tokens(sides_of(dataset.pairs[place]))
        with phase("train"):
            out = files / "dpo"
            out.mkdir()
            prompts = corpus.prompts(corpus.training, max_new_tokens=16)
            DPO().train(TrainingTask(sft, dataset, prompts, None, Budget(EXAMPLES), 0, out, tuning))
        for name in FILES:
            with phase(f"rows of {name}"):
                for _ in read_preferences(str(files / name)):
                    pass
        return tokens

    @contextmanager
    def measured(name: str) -> Iterator[None]:
        before, started = _begin(), time.process_time()
        yield
        seconds = time.process_time() - started
        phases[name] = {"seconds": seconds, "peak_mib": (memory.peak() - before) / MIB}
        peaks.append(memory.peak())

    warm = folder / "warm"
    warm.mkdir()
    write_files(warm, 200)
    work(warm, measured)
    peaks.clear()
    begun = _begin()
    tokens = work(folder, measured)
    return {"training_tokens": tokens, "phases": phases, "peak_mib": (max(peaks) - begun) / MIB}


def _begin() -> int:
    """Give back what nobody uses, and measure the peak from now on; returns the bytes that are held."""
    gc.collect()
    pyarrow.default_memory_pool().release_unused()
    memory.give_back()
    memory.reset_peak()
    return memory.resident()


def measure_apart(count: int) -> dict[str, Any]:
    """`measure` for a number of pairs in a fresh process of one thread."""
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), count)
        save_model(Path(folder) / "model")
        one = {name: "1" for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")} | {"TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-m", __spec__.name, "--measure", folder]
        done = subprocess.run(command, env=os.environ | one, check=True, stdout=subprocess.PIPE, text=True)
        size = (Path(folder) / FILES[0]).stat().st_size
    return {"file_mib": size / MIB, **json.loads(done.stdout)}


def page(found: dict[str, Any]) -> str:
    """The figures as a table in Markdown."""
    sizes = found["sizes"]
    largest = sizes[max(sizes, key=int)]
    packages = ", ".join(f"{name} {number}" for name, number in found["packages"].items())
    lines = [
        "# What a data set's size costs",
        "",
        f"Preference files of {largest['file_mib'] * MIB / max(map(int, sizes)):,.0f} bytes a pair. CPU milliseconds "
        "of one thread a pair of the file, and by how many MiB resident memory rose at most above what it was when the "
        "phase began (pages of mapped files included), in a fresh process for each size after a warm-up. "
        f"{found['machine']}; {packages}; {found['date']}. Derived from scale.json by `benchmarks/selfcheck/scale.py`.",
        "",
        "| phase | " + " | ".join(f"{int(n):,} pairs: ms a pair | MiB" for n in sizes) + " |",
        "|---" * (1 + 2 * len(sizes)) + "|",
    ]
    for name, said in PHASES.items():
        cells = []
        for count, row in sizes.items():
            phase = row["phases"][name]
            each = "-" if name == "train" else f"{1000 * phase['seconds'] / int(count):.3f}"
            cells += [each, f"{phase['peak_mib']:.1f}"]
        lines.append(f"| {said} | " + " | ".join(cells) + " |")
    whole = " | ".join(f"- | {row['peak_mib']:.1f}" for row in sizes.values())
    return "\n".join([*lines, f"| above the warm-up, over all phases | {whole} |", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description="What a data set's size costs.")
    parser.add_argument("--out", type=Path, default=PUBLISHED, help="folder of scale.json and scale.md")
    parser.add_argument("--pairs", type=int, nargs="+", default=SIZES)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure(asked.measure)))
        return
    found = {
        "sizes": {str(count): measure_apart(count) for count in asked.pairs},
        "machine": platform.platform(),
        "packages": {name: version(name) for name in ("torch", "transformers", "tokenizers", "pyarrow")},
        "date": datetime.now(UTC).date().isoformat(),
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "scale.json").write_text(json.dumps(found, indent=2) + "\n")
    (asked.out / "scale.md").write_text(page(found))


if __name__ == "__main__":
    main()
