"""Builds the two small models that are shipped: the base model of `quick`, and the judge it is offered.

    python -m alignment_bench.benchmarks.quick_models [base] [judge]      about ten minutes each on two cores

The base has read the world's requests with answers of every quality as plain text, not as chat: it knows the words and
can copy from the facts, and has yet to learn to answer in turn. The judge started as the base and has read labelled
comparisons of a labeller population of its own; it is meant to be imperfect, as judges are.
"""

import random
import sys
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ..methods.base import Ledger
from ..methods.loop import fit
from ..methods.policy import Policy
from ..results.chat import encode_prompt
from ..results.checkpoint import Network, Tuning
from .world import Labeller, draw_answer, draw_task, prefers_first

HERE = Path(__file__).parent
BASE, JUDGE = HERE / "base_model", HERE / "judge_model"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
QUESTION = "{prompt}\nAnswer A: {a}\nAnswer B: {b}\nWhich answer is better, A or B?"  # evaluators/prompts/compact.txt
JUDGE_LABELLER = Labeller("judge", sharpness=6.0, length=0.1, friendliness=0.1, careless=0.02)
TUNING = Tuning(precision="fp32", device="cpu", micro_tokens=16384)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE in which every word of the world is one token; it can write any text."""
    rng = random.Random(1)
    texts = [plain_text(rng)[0] + "\n" + comparison(rng)[0] for _ in range(20_000)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|begin|>", "<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=900, special_tokens=specials, initial_alphabet=alphabet, min_frequency=5, show_progress=False
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=specials[3:],
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
    fast.chat_template = TEMPLATE
    return fast


def plain_text(rng: random.Random) -> tuple[str, str]:
    """A request and an answer of any quality on two lines; and the request alone."""
    task = draw_task(rng)
    return f"{task.prompt}\n{draw_answer(task, rng)}", task.prompt


def comparison(rng: random.Random) -> tuple[str, str]:
    """A judge's question and the verdict of the judge's labeller population."""
    task = draw_task(rng)
    a, b = draw_answer(task, rng), draw_answer(task, rng)
    while a == b:
        b = draw_answer(task, rng)
    verdict = "A" if prefers_first(JUDGE_LABELLER, task.prompt, a, b, rng) else "B"
    return QUESTION.format(prompt=task.prompt, a=a, b=b), verdict


def build_base(steps: int = 4000) -> None:
    """Pretrain on plain text, every token learnt."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    rng = random.Random(2)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    rows = [((bos,), (*tokenizer(plain_text(rng)[0])["input_ids"], eos)) for _ in range(60_000)]
    train(model, tokenizer, rows, BASE, steps=steps, lr=3e-3)


def build_judge(steps: int = 3000) -> None:
    """Continue from the base on judge's questions; the verdict counts like all other tokens together."""
    torch.manual_seed(0)
    model = LlamaForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(BASE)
    rng = random.Random(3)
    rows = []
    for _ in range(100_000):
        question, verdict = comparison(rng)
        rows.append((tuple(encode_prompt(tokenizer, [{"role": "user", "content": question}])), tuple(tokenizer(verdict)["input_ids"])))
    train(model, tokenizer, rows, JUDGE, steps=steps, lr=1.5e-3)


def train(model: LlamaForCausalLM, tokenizer, rows: list, out: Path, *, steps: int, lr: float) -> None:
    """Fit a model to the second parts of (context ids, target ids) rows and save it in half precision."""
    network = Network(model.eval(), "lm", TUNING, None, None)
    policy = Policy(network, tokenizer)
    with tempfile.TemporaryDirectory() as scratch:
        fit(
            rows,
            network.parameters,
            lambda batch: (-policy.logps(batch).mean(), {}),
            lambda row: len(row[0]) + len(row[1]),
            ledger=Ledger.of(network, Path(scratch)),
            total_examples=64 * steps,
            batch_size=64,
            lr=lr,
            warmup=0.05,
            weight_decay=0.01,
            max_grad_norm=1.0,
            micro_tokens=TUNING.micro_tokens,
            seed=0,
            label=out.name,
        )
        log = (Path(scratch) / "metrics.jsonl").read_text().splitlines()
    print(out.name, log[0], log[-1], sep="\n", file=sys.stderr)
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["base", "judge"]
    if "base" in wanted:
        build_base()
    if "judge" in wanted:
        build_judge()
