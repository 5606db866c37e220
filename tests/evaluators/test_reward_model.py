"""Reward models: the last real token is read, whatever padding and batch; each distinct text once; win rates."""

import pytest
import torch

from alignment_bench.benchmarks.selfcheck.passes import counted
from alignment_bench.errors import InputError
from alignment_bench.evaluators.reward_model import RewardModelWinRate
from alignment_bench.models.chat import load_tokenizer
from alignment_bench.models.checkpoint import open_network
from alignment_bench.models.kept_values import write_kept
from alignment_bench.models.reward_model import RewardModel, TextRewardModel, encode
from alignment_bench.results.records import Generation

TRIAL = (3 + 3 + 2 + 2 + 1) + (6 + 3 + 5)  # tokens by which a network finds out whether it can pack: packed, padded
ROWS = [((0, 10, 11, 12), (20, 21, 1)), ((0, 10), (30, 1)), ((0, 40, 41, 42, 43, 44, 45, 46), (50, 51, 1))]


@pytest.fixture
def saved(tiny, tuning, tmp_path):
    network = open_network(tiny.path, "score", tuning, trainable=True, head_std=0.5)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters:
            parameter.add_(torch.randn_like(parameter) * 0.05)
    network.save(tmp_path / "rm", tiny.tokenizer())
    network.close()
    return tmp_path / "rm"


def test_scores_do_not_depend_on_padding_or_batch(saved, tuning):
    """pad == eos here, and every row ends with EOS: a mask made from ids would read the token before it."""
    model = RewardModel.open(saved, tuning)
    together = model.scores(ROWS).tolist()
    alone = [model.scores([row]).item() for row in ROWS]
    small = RewardModel(model.network, model.tokenizer)
    small.network.micro_tokens = 11
    assert together == pytest.approx(alone, rel=1e-4, abs=1e-4)
    assert small.score_all(ROWS) == pytest.approx(alone, rel=1e-4, abs=1e-4)
    assert max(alone) - min(alone) > 0.01
    for (prompt, response), score in zip(ROWS, alone, strict=True):
        model.network.activate()
        with torch.no_grad():
            hidden = model.network.backbone(input_ids=torch.tensor([prompt + response])).last_hidden_state
        assert score == pytest.approx(float(model.network.head(hidden[0, -1])), rel=1e-4, abs=1e-4)
    model.network.close()


def test_each_distinct_text_is_computed_once(saved, tuning):
    model = RewardModel.open(saved, tuning)
    calls = []
    scores = model.scores
    model.scores = lambda layout: calls.append(len(layout.last)) or scores(layout)
    first = model.score_all([*ROWS, ROWS[0]])
    assert sum(calls) == 3 and first[0] == first[3]
    model.network.close()


def test_scores_do_not_depend_on_what_was_scored_before(saved, tuning):
    """Bit by bit, over rows of many lengths: the last digits depend on which rows share a pass."""
    rows = [((0, *range(10, 10 + i % 7)), (20 + i, *range(30, 30 + i % 5), 1)) for i in range(40)]
    model = RewardModel.open(saved, tuning)
    fresh, other = model.score_all(rows), RewardModel(model.network, model.tokenizer)
    other.score_all(rows[::3])
    assert other.score_all(rows) == fresh
    model.network.close()


def generation(prompt_id, text):
    return Generation(prompt_id, ({"role": "user", "content": "hello"},), text, 5, True)


def test_what_is_known_does_not_go_through_the_model(saved, tuning):
    """A made-up score comes back as it is; of the others each distinct text goes through once."""
    known, other = generation("a", "yes"), generation("b", "no")
    evaluator, tokenizer = RewardModelWinRate(str(saved), tuning), load_tokenizer(saved)
    alone = evaluator.rewards([other])[0]
    write_kept(saved, [encode(tokenizer, known)], [7.5])
    with counted() as passes:
        assert evaluator.rewards([known, known]) == [7.5, 7.5] and passes.scored == 0
        assert evaluator.rewards([other, known, other]) == pytest.approx([alone, 7.5, alone], rel=1e-5, abs=1e-5)
    assert passes.scored == TRIAL + sum(map(len, encode(tokenizer, other)))


def test_win_rate_follows_the_scores(saved, tuning):
    evaluator = RewardModelWinRate(str(saved), tuning)
    ours = [generation("a", "yes"), generation("b", "no"), generation("c", "same")]
    theirs = [generation("a", "no"), generation("b", "yes"), generation("c", "same")]
    scores = {(s.metric, s.prompt_id): s.value for s in evaluator.score(ours, theirs)}
    better = scores["reward.reward_model", "a"] > scores["reward.reward_model", "b"]
    assert scores["win_rate.reward_model", "a"] == float(better)
    assert scores["win_rate.reward_model", "b"] == float(not better)
    assert scores["win_rate.reward_model", "c"] == 0.5
    model = RewardModel.open(saved, tuning)
    assert scores["reward.reward_model", "c"] == pytest.approx(model([theirs[2]])[0], rel=1e-5, abs=1e-5)
    model.network.close()


# --- a reward model from elsewhere


def save_encoder(folder, labels=1):
    """A random BERT classifier with a word tokenizer of its own and no chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "yes", "no", "same", "good", "day"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")
    fast.save_pretrained(folder)
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=10, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, num_labels=labels, initializer_range=0.8, pad_token_id=0,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_a_classifier_with_its_own_tokenizer_is_read_as_transformers_reads_it(tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = save_encoder(tmp_path / "bert")
    texts = ["yes", "no good day", "same", "good day yes", "no"]
    ours = RewardModelWinRate(str(folder), device="cpu").rewards([generation(str(i), t) for i, t in enumerate(texts)])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        alone = [model(**tokenizer("hello", text, return_tensors="pt")).logits.item() for text in texts]
    assert ours == pytest.approx(alone, rel=1e-5, abs=1e-5) and max(alone) - min(alone) > 0.01


def test_a_decoder_reads_its_own_chat_template(saved, tiny, tuning):
    """The folder of one of our reward models, as a user would name it; the template ends the turn with EOS."""
    texts = ["yes", "a longer answer", "no"]
    asked = [generation(str(i), text) for i, text in enumerate(texts)]
    if tuning.lora_rank:
        with pytest.raises(InputError, match="is an adapter; merge it"):
            RewardModelWinRate(str(saved), device="cpu").rewards(asked)
        return
    ours = RewardModelWinRate(str(saved), device="cpu").rewards(asked)
    model = RewardModel.open(saved, tuning)
    tokenizer = tiny.tokenizer()
    rows = [tokenizer(f"<s>[user]hello</s>[assistant]{t}</s>", add_special_tokens=False)["input_ids"] for t in texts]
    expected = [model.scores([(tuple(row[:4]), tuple(row[4:]))]).item() for row in rows]  # wherever a row is cut
    assert ours == pytest.approx(expected, rel=1e-4, abs=1e-4)
    model.network.close()


def test_models_that_give_no_reward_are_refused(tiny, tmp_path):
    with pytest.raises(InputError, match="has 2 outputs, but a reward is one number|holds no weights for"):
        TextRewardModel(str(tiny.path), "cpu")  # a language model: its score head would be random
    with pytest.raises(InputError, match="has 3 outputs"):
        TextRewardModel(str(save_encoder(tmp_path / "three", labels=3)), "cpu")
    with pytest.raises(InputError, match="cannot be loaded"):
        TextRewardModel(str(tmp_path / "nothing"), "cpu")
    model = TextRewardModel(str(save_encoder(tmp_path / "short")), "cpu")
    with pytest.raises(InputError, match="reads at most 32 tokens, but a prompt and response have 43"):
        model([generation("p", "yes " * 39)])


def test_a_response_that_was_cut_is_read_without_an_end_that_it_never_had(tiny):
    tokenizer = tiny.tokenizer()
    ended, cut = (
        Generation("p", ({"role": "user", "content": "q"},), "yes", 3, finished) for finished in (True, False)
    )
    assert encode(tokenizer, ended)[1] == (*encode(tokenizer, cut)[1], tokenizer.eos_token_id)
    assert tokenizer.decode(list(encode(tokenizer, cut)[1])) == "yes"


def test_positions_that_are_counted_on_from_the_paddings_id_leave_fewer_tokens(tmp_path):
    """RoBERTa: of 32 learnt positions, with the padding's id 1, the first two are no token's, so that 30 are read."""
    from transformers import AutoTokenizer, RobertaConfig, RobertaForSequenceClassification

    AutoTokenizer.from_pretrained(save_encoder(tmp_path / "bert")).save_pretrained(tmp_path / "roberta")
    config = RobertaConfig(
        vocab_size=10, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, num_labels=1, pad_token_id=1, type_vocab_size=2,
    )  # fmt: skip
    RobertaForSequenceClassification(config).save_pretrained(tmp_path / "roberta")
    model = TextRewardModel(str(tmp_path / "roberta"), "cpu")
    assert len(model([generation("p", "yes " * 26)])) == 1  # [CLS] hello [SEP] ... [SEP]
    with pytest.raises(InputError, match="reads at most 30 tokens, but a prompt and response have 31"):
        model([generation("p", "yes " * 27)])


def test_a_scorer_of_an_architecture_without_a_classifier_is_saved_and_opened_again(tmp_path, full):
    from alignment_bench.benchmarks.selfcheck.architectures import make

    make("cohere", tmp_path / "lm")
    tokenizer = load_tokenizer(tmp_path / "lm")
    network = open_network(tmp_path / "lm", "score", full, trainable=True, head_std=0.5)
    expected = RewardModel(network, tokenizer).scores(ROWS).tolist()
    assert max(expected) - min(expected) > 0.01
    network.save(tmp_path / "rm", tokenizer)
    assert RewardModel.open(tmp_path / "rm", full).scores(ROWS).tolist() == pytest.approx(expected, rel=1e-6)
