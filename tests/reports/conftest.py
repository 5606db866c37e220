"""A made-up run on disk, as `bench run` leaves it, and what a browser would make of a page."""

import itertools
import random
from html.parser import HTMLParser

import pandas
import pytest

from alignment_bench.results.records import Generation
from alignment_bench.results.run_folder import Run
from alignment_bench.results.store import Store, write_jsonl

METHODS = {"ppo": 0.71, "dpo": 0.64, "orpo": 0.58}
PROMPTS = [f"quick-{n}" for n in range(60)]


def interval(mean, half, n=180, **more):
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n, **more}


def cell_files(folder, method, seed, words):
    """A cell's files on disk, as the harness writes them."""
    rng = random.Random(f"{method}{seed}")
    gain = METHODS.get(method, 0.5) - 0.5
    generations, scores = [], []
    for number, prompt_id in enumerate(PROMPTS):
        kl = 0.0 if method == "sft" else rng.gauss(30 * gain, 1)
        conversation = ({"role": "user", "content": f"{words}How do I grow tomatoes in pot {number}?"},)
        text = f"{words}Give them six hours of sun and a deep pot, and water when the soil feels dry. " * rng.randint(
            1, 2
        )
        generations.append(Generation(prompt_id, conversation, text, rng.randint(18, 64), rng.random() < 0.95, kl))
        gold, proxy = rng.gauss(gain * 4, 0.6), rng.gauss(gain * 6, 0.8)
        scores += [("reward.gold", prompt_id, gold), ("reward.reward_model", prompt_id, proxy), ("kl", prompt_id, kl)]
        if method != "sft":
            scores += [(f"win_rate.{e}", prompt_id, float(rng.random() < 0.5 + gain)) for e in ("gold", "reward_model")]
            scores.append(("win_rate.judge", prompt_id, None if number % 9 == 0 else rng.choice([0.0, 0.5, 1.0])))
    write_jsonl(folder / "generations.jsonl", generations)
    pandas.DataFrame(scores, columns=["metric", "prompt_id", "value"]).to_parquet(folder / "scores.parquet")
    rows = []
    for step in range(1, 121 if method != "sft" else 0):
        row = {"step": step, "examples": 8 * step, "seconds": step / 9, "lr": 1e-4, "grad_norm": rng.uniform(0.5, 2)}
        row["loss"] = 0.69 - gain * step / 120 + rng.gauss(0, 0.03)
        if method == "ppo":
            row |= {"reward": gain * step / 30 + rng.gauss(0, 0.1), "kl": step / 20, "entropy": 2.2 - step / 200}
        else:
            row |= {"accuracy": min(1, 0.5 + gain * step / 60 + rng.gauss(0, 0.05)), "margin": gain * step / 10}
            row |= {"chosen_logps": -20 - step / 40, "rejected_logps": -22 - step / 15}
        if step % 30 == 0:
            row |= {"chosen_displacement": -step / 60, "rejected_displacement": -step / 30, "length": 40 + step / 12}
        rows.append(row)
    if rows:
        write_jsonl(folder / "metrics.jsonl", rows)


def record(methods):
    return {
        "run_id": "20260301-2c9d41",
        "benchmark": "quick",
        "created": "2026-03-01T09:30:00+00:00",
        "commands": ["bench run --method ppo,dpo,orpo --seeds 3"],
        "contract": {
            "base": {"path": "built in", "weights": "9f2c" * 16},
            "tokenizer": "51ab" * 16,
            "template": "77d0" * 16,
            "data": {"pairs": "e01f" * 16, "order": "seeded shuffle"},
            "budget": {"examples": 960},
            "seeds": [0, 1, 2],
            "generation": {"max_new_tokens": 64, "temperature": 1.0},
        },
        "environment": {
            "packages": {"alignment-bench": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
            "machine": "x86_64, 2 cores, 8 GiB",
            "device": "cpu",
            "python": "3.12.4",
        },
        "data": {
            "source": "quick (built in, seed 0)",
            "read": 4120,
            "dropped": {"chosen and rejected are the same": 31, "empty prompt": 2},
            "splits": {
                "sft": {"pairs": 800, "prompts": 800},
                "train_reward": {"pairs": 1600, "prompts": 800},
                "eval_reward": {"pairs": 1600, "prompts": 800},
                "held_out": {"pairs": 87, "prompts": 60},
            },
            "dropped_tokens": {"prompt longer than the context": 4},
            "notes": ["Labels are drawn from a Bradley-Terry model over the true reward; 12% are flipped on average."],
        },
        "methods": {
            label: {"name": "dpo", "params": {"beta": 0.1, "lr": 5e-4}, "description": "Preference optimization."}
            for label in methods
        },
    }


BESIDE = {
    "coverage": 0.944, "ties": 0.1, "accuracy": {"mean": 0.634, "low": 0.59, "high": 0.676, "n": 470},
    "decided_accuracy": {"mean": 0.731, "low": 0.68, "high": 0.77, "n": 390}, "kappa": 0.412, "kappa_person": 0.378,
    "another_person": {
        "agreement": 0.602, "people": 0.8, "difference": -0.198, "low": -0.241, "high": -0.155, "n": 470
    },
}  # fmt: skip


def summary(methods):
    rows = {"sft": {"seeds": 3, "metrics": {}, "cost": {}}}
    rows["sft"]["metrics"] = {
        "reward.gold": interval(-0.02, 0.08), "reward.reward_model": interval(0.05, 0.1),
        "kl": {"mean": 0.0, "low": 0.0, "high": 0.0, "n": 180},
        "length": interval(41.2, 1.3), "eos_rate": interval(0.95, 0.02),
    }  # fmt: skip
    for place, (label, rate) in enumerate(methods.items()):
        gain = rate - 0.5
        rows[label] = {
            "seeds": 3,
            "metrics": {
                "win_rate.gold": interval(rate, 0.061),
                "win_rate.reward_model": interval(rate + 0.07, 0.052),
                "win_rate.judge": interval(rate - 0.04, 0.074, n=159, coverage=159 / 180),
                "reward.gold": interval(gain * 4, 0.13),
                "reward.reward_model": interval(gain * 6, 0.16),
                "kl": interval(30 * gain, 0.31),
                "length": interval(44.5 + place, 1.6),
                "eos_rate": interval(0.948, 0.018),
                "gold.honest": interval(0.31, 0.05),
            },
            "cost": {
                "seconds": (134.2, 41.7, 9.34)[place % 3], "flops": (3.21e13, 1.4e13, 1.1e13)[place % 3],
                "trained_tokens": (1_240_000, 412_345, 412_345)[place % 3],
                "generated_tokens": (310_400, 0, 0)[place % 3],
                "reward_queries": (9_600, 0, 0)[place % 3], "peak_memory_mb": (1_812.4, 940.2, 871.0)[place % 3],
                "optimizer_steps": 120, "examples": 960,
            },
        }  # fmt: skip
    pairs = [(label, "sft") for label in methods] + list(itertools.combinations(methods, 2))
    comparisons = []
    for metric in ("win_rate.gold", "win_rate.reward_model"):
        for a, b in pairs:
            gap = methods[a] - methods.get(b, 0.5)
            tested = metric == "win_rate.gold"
            clear = gap > 0.1 and tested
            comparisons.append(
                {
                    "a": a,
                    "b": b,
                    "metric": metric,
                    "difference": gap,
                    "low": gap - 0.09,
                    "high": gap + 0.09,
                    "p": 0.0001 if clear else 0.09,
                    "basis": "sft" if b == "sft" else "direct",
                    "seeds": 3,
                    "p_adjusted": (0.0004 if clear else 0.214) if tested else None,
                    "equal": False,
                    "not_worse": [],
                    "verdict": f"{a} is better" if clear else "not decided" if tested else "",
                }  # fmt: skip
            )
    return {
        "run_id": "20260301-2c9d41",
        "run_dir": "results/runs/quick/20260301-2c9d41",
        "benchmark": "quick",
        "contract": {"model": "models/SmolLM2-135M-Instruct/"},
        "data": {"source": "pairs/tomatoes.jsonl.gz", "read": 4120, "used": 4087},
        "methods": rows,
        "comparisons": comparisons,
        "gates": [
            {
                "name": "SFT held-out loss", "value": 1.482, "low": 1.44, "high": 1.52, "threshold": 3.91,
                "passed": True,
                "text": "SFT reaches 1.482 nats per token on held-out responses, the base model 3.910",
            },
            {
                "name": "reward model accuracy", "value": 0.671, "low": 0.641, "high": 0.699, "threshold": 0.7,
                "passed": False,
                "text": "The evaluation reward model agrees with 67.1% of held-out preferences, 64.1% to 69.9%",
            },
        ],
        "warnings": ["Three seeds only: intervals over seeds are wide."],
        "ratings": {"gold": {"sft": interval(0, 0), **{m: interval(600 * (r - 0.5), 40) for m, r in methods.items()}}},
        "equal_length": {
            "judge": {
                m: interval(r - 0.06, 0.07) | {"length_effect": interval(0.4, 0.2)} for m, r in methods.items()
            }
        },
        "changes": {
            metric: {
                m: {"difference": size * (r - 0.5), "low": size * (r - 0.6), "high": size * (r - 0.4), "n": 180}
                for m, r in methods.items()
            }
            for metric, size in (("reward.gold", 4), ("reward.reward_model.training", 8), ("length", 10))
        },
        "ties": {"win_rate.gold": dict.fromkeys(methods, 0.1)},
        "reward_models": {
            "heldout": {
                "models": {
                    role: {
                        "pairs": 87, "accuracy": interval(0.67, 0.03), "ties": 0, "ece": 0.021,
                        "length_correlation": interval(0.2, 0.1), "prefers_longer": interval(0.5, 0.05),
                        "people_prefer_longer": interval(0.52, 0.05), "subsets": {},
                        "bins": [{"confidence": c, "accuracy": c - 0.05, "n": 40} for c in (0.55, 0.9)],
                    }
                    for role in ("training", "evaluation")
                },
                "agreement": interval(0.8, 0.03), "kappa": 0.6,
            }
        },
        "judges": {
            "audit": {"judge": {"coverage": interval(0.88, 0.03), "flip": interval(0.22, 0.04)}},
            "usage": {"judge_model": {"verdicts": 480}},
            "people": {
                "file": "people.jsonl",
                "people": {
                    "pairs": 500, "labels": 1500, "without_majority": 7, "agreement": 0.812, "kappa": 0.687,
                    "alpha": 0.679,
                },
                "judges": {
                    "judge_model": {**BESIDE, "subsets": {"chat": {"pairs": 123, "alpha": 0.555, **BESIDE}}}
                },
            },
        },
    }  # fmt: skip


def fake_run(folder, *, methods=METHODS, words=""):
    """A finished run as `bench run` leaves it; `words` goes in front of every prompt and response."""
    run = Run(folder / "runs" / "quick" / "20260301-2c9d41")
    run.open(record(methods))
    store = Store(folder)
    for method, seed in itertools.product(["sft", *methods], range(3)):
        made = store.stage(
            "cell",
            {"method": method, "seed": seed},
            lambda path, method=method, seed=seed: cell_files(path, method, seed, words),
        )
        run.place(method, seed, [made])
    run.write_summary(summary(methods))
    return run


class Page(HTMLParser):
    """A page as a browser would read it: elements with their attributes, and text by the element around it."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts, self.open = [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def count(self, tag):
        return sum(name == tag for name, _ in self.elements)


@pytest.fixture(scope="session")
def make_run():
    """fake_run(folder, methods=..., words=...): a finished run below a folder."""
    return fake_run


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """One made-up run that no test changes."""
    return fake_run(tmp_path_factory.mktemp("made_up"))


@pytest.fixture(scope="session")
def parse():
    """Page(source): elements with their attributes, and text."""
    return Page
