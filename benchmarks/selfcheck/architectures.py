"""Architectures of transformers in every use that the suite makes of a model, beside transformers' own forward.

python -m alignment_bench.benchmarks.selfcheck.architectures [--only llama,mamba]

Each is a tiny random model. Its numbers must be those of transformers' own forward over single rows without padding, or
the suite must refuse it by name. Writes results/published/architectures.json, and the page architectures.md from it.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from ...errors import InputError
from ...evaluators.judge_local import LocalAsker
from ...models.checkpoint import Checkpoint, open_network
from ...models.lora import backbone_of
from ...models.merging import save_merged
from ...models.policy import Policy
from ...models.reward_model import RewardModel
from ...models.sampling import sample
from ...models.trial import try_model
from ...models.tuning import Tuning
from ...results.integrity import write_json
from ...results.records import Ids, Prompt
from ...results.store import read_json
from ...runtime.quiet import quiet
from .architecture_sizes import ARCHITECTURES, SIZES, VOCABULARY

PUBLISHED = Path(__file__).parents[2] / "results" / "published" / "architectures.json"
TOLERANCE = 1e-5  # nats, scores, or shares of the largest gradient
FULL = Tuning(precision="fp32", device="cpu")
LORA = Tuning(lora_rank=4, lora_alpha=8.0, precision="fp32", device="cpu")
LONG, SHORT = tuple(range(40, 52)), (60, 61, 62)
SEQUENCES = [
    (LONG, (70, 71, 72, 73)),
    (SHORT, (80, 81)),
    (LONG, (74, 75)),
    ((90, 91, 92, 93, 94), (82, 83, 84, 85, 86)),
]
QUESTIONS = ["Which one, A or B?", "Which one of these two answers is better, A or B?", "A?"]
TEMPLATE = "{% for m in messages %}<s>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}</s>{% endif %}"

Found = dict[str, Any]


def make(model_type: str, folder: Path) -> None:
    """A random model of an architecture, with a tokenizer of bytes."""
    known = AutoConfig.for_model(model_type)
    names = {*known.to_dict(), *known.attribute_map}
    sizes = {name: size for name, size in SIZES.items() if name in names}
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{**sizes, **ARCHITECTURES[model_type]})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    words = {word: i for i, word in enumerate(["<s>", "</s>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    assert len(words) == VOCABULARY
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)


class Tried:
    """An architecture's model, as the suite opens it, and as transformers does."""

    def __init__(self, model_type: str, folder: Path):
        self.name, self.folder, self.checkpoint = model_type, folder, Checkpoint(folder, model_type)
        self.plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @property
    def looks_back(self) -> float:
        """Nats by which the last token's log-prob changes with the prompt's first: else a leak would not show."""
        prompt, response = SEQUENCES[0]
        with torch.no_grad():
            one, other = (plain_logps(self.plain, p, response)[-1] for p in (prompt, (30, *prompt[1:])))
        return float((one - other).abs())

    @contextmanager
    def policy(self, tuning: Tuning, trainable: bool = True) -> Iterator[Policy]:
        """The model as a run would take it: tried first."""
        try_model(self.checkpoint, tuning, f"--model {self.name}")
        policy = Policy.open(self.checkpoint, tuning, trainable=trainable)
        yield policy
        policy.network.close()


def plain_logps(model: Any, prompt: Ids, response: Ids) -> Tensor:
    """Log-probs [response] by transformers' own forward over one row."""
    logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.float(), -1).gather(1, torch.tensor(response)[:, None])[:, 0]


@torch.no_grad()
def apart(model: Any, sequences: Iterable[tuple[Ids, Ids]], found: Iterable[Sequence[float]]) -> float:
    """The largest difference in nats between log-probs of tokens and those of transformers' own forward."""
    theirs = [plain_logps(model, *sequence) for sequence in sequences]
    return max(float((torch.tensor(ours) - row).abs().max()) for ours, row in zip(found, theirs, strict=True))


def full(tried: Tried) -> Found:
    """Log-probs and every gradient of a sum of them in which each token has a weight of its own."""
    with tried.policy(FULL) as policy:
        ours = policy.logps(SEQUENCES)
        (ours.values * torch.arange(1, ours.values.shape[1] + 1)).sum().backward()
        rows = [plain_logps(tried.plain, *sequence) for sequence in SEQUENCES]
        torch.stack([(row * torch.arange(1, len(row) + 1)).sum() for row in rows]).sum().backward()
        theirs = {name: p.grad for name, p in tried.plain.named_parameters() if p.grad is not None}
        gradients = {name: p.grad for name, p in policy.network.model.named_parameters() if p.grad is not None}
        assert theirs.keys() == gradients.keys()
        scale = max(float(grad.abs().max()) for grad in theirs.values())
        worst = max(float((gradients[name] - grad).abs().max()) for name, grad in theirs.items()) / scale
        tried.plain.zero_grad()
        return {"difference": max(worst, apart(tried.plain, SEQUENCES, ours.rows()))}


def lora(tried: Tried) -> Found:
    """Log-probs through an adapter that is not the identity, beside the model that it is merged into."""
    with tried.policy(LORA) as policy:
        torch.manual_seed(1)
        for parameter in policy.network.parameters:
            parameter.data += torch.randn_like(parameter) * 0.05
        ours = policy.logps(SEQUENCES)
        ours.sum().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in policy.network.parameters), "code passes an adapter by"
        assert apart(tried.plain, SEQUENCES, ours.rows()) > 100 * TOLERANCE
        with tempfile.TemporaryDirectory() as folder:
            save_merged(policy.network, Path(folder))
            whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        layers = backbone_of(whole)
        embedded = {id(m.weight) for m in layers.modules() if isinstance(m, torch.nn.Embedding)}
        weights = {name: p for name, p in layers.named_parameters() if p.ndim > 1 and id(p) not in embedded}
        moved = sum(p.numel() for n, p in weights.items() if not p.equal(backbone_of(tried.plain).get_parameter(n)))
        share = moved / sum(p.numel() for p in weights.values())
        return {"difference": apart(whole, SEQUENCES, ours.rows()), "adapted": share}


def sampled(tried: Tried) -> Found:
    """Log-probs of tokens as they were drawn, of prompts of several lengths that are asked more than once."""
    with tried.policy(FULL, trainable=False) as policy:
        prompts = [Prompt(str(i), (), prompt) for i, (prompt, _) in enumerate(SEQUENCES * 2)]
        drawn = sample(policy, prompts, max_new_tokens=10, seed=0)
        return {"difference": apart(tried.plain, [(s.prompt.ids, s.ids) for s in drawn], [s.logps for s in drawn])}


@torch.no_grad()
def scored(tried: Tried) -> Found:
    """A reward model's scores, beside its head on the last hidden state of transformers' own forward."""
    network = open_network(tried.folder, "score", FULL, trainable=True, head_std=0.5)
    ours = RewardModel(network, tried.checkpoint.tokenizer()).scores(SEQUENCES).tolist()
    layers, head = backbone_of(tried.plain), network.score
    assert head is not None
    states = [layers(input_ids=torch.tensor([[*p, *r]])).last_hidden_state[0, -1] for p, r in SEQUENCES]
    theirs = [float(state @ head.weight[0]) for state in states]
    assert max(theirs) - min(theirs) > 100 * TOLERANCE
    return {"difference": max(abs(a - b) for a, b in zip(ours, theirs, strict=True))}


@torch.no_grad()
def judged(tried: Tried) -> Found:
    """A local judge's log p(A) - log p(B)."""
    asker = LocalAsker(str(tried.folder))
    a, b = (asker.tokenizer.convert_tokens_to_ids(letter) for letter in "AB")
    differences = []
    for question, margin in zip(QUESTIONS, asker.margins(QUESTIONS), strict=True):
        logits = tried.plain(input_ids=torch.tensor([asker.encode(question)])).logits[0, -1]
        assert margin is not None
        differences.append(abs(margin - float(logits[a] - logits[b])))
    return {"difference": max(differences)}


@torch.no_grad()
def packed(tried: Tried) -> Found:
    """Log-probs of a pass over several sequences, packed where the architecture can be."""
    with tried.policy(FULL, trainable=False) as policy:
        layout = policy.network.lay_out(SEQUENCES)
        found = policy.logps(layout).rows()
        return {"difference": apart(tried.plain, SEQUENCES, found), "packed": layout.packed}


USES: dict[str, Callable[[Tried], Found]] = {
    "train full": full,
    "train LoRA": lora,
    "sample": sampled,
    "score": scored,
    "judge": judged,
    "pack": packed,
}


def measure(model_type: str) -> Found:
    """Of each use the difference to transformers, or the sentence by which it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        make(model_type, Path(folder))
        tried = Tried(model_type, Path(folder))
        found: Found = {"class": type(tried.plain).__name__, "looks_back": tried.looks_back, "uses": {}}
        for name, use in USES.items():
            try:
                found["uses"][name] = use(tried)
            except InputError as error:
                found["uses"][name] = {"refused": str(error).replace(folder, model_type)}
    return found


def agrees(use: Found) -> bool:
    """True for a use with the numbers of transformers' own forward."""
    return use.get("difference", 1.0) <= TOLERANCE


def statement(found: Found) -> str:
    """What README says of it."""
    rows = found["architectures"].values()
    same = sum(all(map(agrees, row["uses"].values())) for row in rows)
    refused = sum(any("refused" in use for use in row["uses"].values()) for row in rows)
    of = f"{len(rows)} architectures of transformers {found['packages']['transformers']}, tiny and random"
    same_in = f"give the numbers of transformers' own forward to {TOLERANCE:g} in every use"
    return f"{same} of {of}, {same_in}; {refused} are refused by name"


def page(found: Found) -> str:
    """architectures.md: a row per architecture, and the sentences of those that are refused."""
    rows = found["architectures"]
    lines = [
        "# Architectures",
        "",
        "Made from architectures.json by `python -m alignment_bench.benchmarks.selfcheck.architectures`. Tiny random",
        "models: the largest difference to transformers' own forward over single rows, in nats (judge: of log p(A) -",
        "log p(B); score: of the score; train full: of gradients too, as a share of the largest one).",
        "",
        f"{statement(found)}.",
        "",
        f"| Architecture | Class | {' | '.join(USES)} |",
        f"| --- | --- |{' ---: |' * len(USES)}",
    ]
    for name, row in sorted(rows.items()):
        lines.append(f"| {name} | {row['class']} | {' | '.join(map(_cell, row['uses'].values()))} |")
    lines += [
        "",
        "A pass that is not packed has padded rows. Adapted: the share of the layers' weights beside which LoRA",
        "adapters stand, where it is not all (left out are a mixture's routers, and what code would pass by).",
        "",
        "What is refused:",
        "",
    ]
    uses = chain.from_iterable(row["uses"].values() for _, row in sorted(rows.items()))
    lines += [f"- {sentence}" for sentence in dict.fromkeys(use["refused"] for use in uses if "refused" in use)]
    return "\n".join(lines) + "\n"


def _cell(use: Found) -> str:
    if "refused" in use:
        return "refused"
    said, share = f"{use['difference']:.0e}", use.get("adapted", 1.0)
    if not use.get("packed", True):
        return f"{said} (padded)"
    return said if share == 1 else f"{said} ({share:.1%} adapted)"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", help="architectures, by comma")
    parser.add_argument("--out", type=Path, default=PUBLISHED)
    args = parser.parse_args()
    quiet()
    found: Found = read_json(args.out) if args.out.exists() else {"architectures": {}}
    for name in args.only.split(",") if args.only else ARCHITECTURES:
        found["architectures"][name] = row = measure(name)
        print(name, f"{row['looks_back']:.3f}", *map(_cell, row["uses"].values()), flush=True)
    found["architectures"] = {name: row for name in ARCHITECTURES if (row := found["architectures"].get(name))}
    found["packages"] = {name: version(name) for name in ("torch", "transformers", "peft")}
    found["date"] = datetime.now(UTC).date().isoformat()
    write_json(args.out, found)
    args.out.with_suffix(".md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
