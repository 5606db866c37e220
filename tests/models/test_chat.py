"""Chat templates and replies as token ids: one date, refusals in words, one EOS, thoughts that are opened once."""

import json
from datetime import datetime

import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers.utils import chat_template_utils

from alignment_bench.errors import InputError
from alignment_bench.models import chat
from alignment_bench.models.chat import (
    Refused,
    answer_of,
    as_sampled,
    decode_response,
    encode_prompt,
    encode_response,
    encode_responses,
    is_bare,
    load_tokenizer,
    opens_thoughts,
    render,
    without_end,
    writes_date,
)
from alignment_bench.models.find import find_model

ASK = [{"role": "user", "content": "Hi"}]
DATED = "\n{{ strftime_now('%d %b %Y') }}{% if strftime_now is defined %}!{% endif %}{% for m in messages %}" + (
    "{{ m['content'] ~ strftime_now('%A %-d %B %y %H:%M') }}{% endfor %}"
)
THINKS = "{% for m in messages %}{{ m['role'] + ':' + m['content'] }}{% endfor %}{{ '<think>\\n' }}"


@pytest.fixture(scope="module")
def saved(make_tiny, tmp_path_factory):
    """saved(template): the folder of a tiny model with that template."""

    def save(template):
        return make_tiny(tmp_path_factory.mktemp("model"), template=template)

    return save


def test_a_template_that_writes_the_date_gives_the_same_prompt_on_every_day(saved, monkeypatch):
    """1 January 2026 was a Thursday; transformers' own clock shows that the template does ask for the day."""
    tokenizer = load_tokenizer(saved(DATED))
    for day in (3, 4):

        class Day(datetime):
            @classmethod
            def now(cls):
                return datetime(2031, 5, day)  # noqa: B023  # used before the next

        monkeypatch.setattr(chat_template_utils, "datetime", Day)
        chat_template_utils._compile_jinja_template.cache_clear()
        assert tokenizer.apply_chat_template(ASK, tokenize=False).startswith(f"\n0{day} May 2031!")
        assert render(tokenizer, ASK) == "\n01 Jan 2026!HiThursday 1 January 26 00:00"
    assert writes_date(tokenizer)


def test_a_template_without_a_date_is_left_as_it_is(tiny):
    tokenizer = tiny.tokenizer()
    assert not writes_date(tokenizer)
    assert render(tokenizer, ASK) == tokenizer.apply_chat_template(ASK, tokenize=False, add_generation_prompt=True)
    whole = [*ASK, {"role": "assistant", "content": "Yo"}]
    assert render(tokenizer, whole, is_prompt=False) == "<s>[user]Hi</s>[assistant]Yo</s>"


def test_what_a_template_refuses_is_told_in_its_own_words(saved):
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role, sorry...') }}{% endif %}ok"
    tokenizer = load_tokenizer(saved(refusing))
    assert render(tokenizer, ASK) == "ok"
    with pytest.raises(Refused, match=r"refuses the prompt: No system role, sorry\.\.\.$"):
        encode_prompt(tokenizer, [{"role": "system", "content": "s"}, *ASK])


@pytest.mark.parametrize(
    ("templates", "said"),
    [
        (
            [{"name": "rag", "template": "a"}, {"name": "tool", "template": "b"}],
            r"several .* \(rag, tool\) and none named",
        ),
        ([{"template": "a"}, {"template": "b"}], "give each template a name"),
        ([{"name": "default", "template": "a"}, {"name": "tool", "template": "b"}], None),
    ],
)
def test_several_templates(saved, templates, said):
    folder = saved("unused")
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": templates}))
    if said is None:
        assert render(load_tokenizer(folder), ASK) == "a"
        return
    with pytest.raises(InputError, match=said):
        load_tokenizer(folder)


def test_a_reply_ends_once_and_a_cut_one_not_at_all(tiny):
    tokenizer = tiny.tokenizer()
    plain = encode_response(tokenizer, "It is 2.")
    assert plain[-1] == tokenizer.eos_token_id and plain.count(tokenizer.eos_token_id) == 1
    for text in ("It is 2.</s>", "It is 2.</s></s>", "It is 2. </s>\n"):
        assert encode_response(tokenizer, text) == plain
        assert without_end(tokenizer, text) == "It is 2."
    assert encode_response(tokenizer, "It is 2.", cut=True) == plain[:-1]
    assert encode_responses(tokenizer, ["It is 2."] * 2, [True, False]) == [plain[:-1], plain]
    assert encode_response(tokenizer, "", cut=True) == [tokenizer.eos_token_id]  # nothing cannot be predicted
    for text in ("a </s> b", "a\n", "<s>"):  # an end within a text is the text's own, and so is a last line break
        assert without_end(tokenizer, text) == text


THOUGHT = [
    ("<think>\nhm\n</think>\n\nyes", False, "hm\n</think>\n\nyes"),  # opened by the prompt already
    ("hm\n</think>\n\nyes", False, "hm\n</think>\n\nyes"),
    ("yes", False, "\n</think>\n\nyes"),  # the block that the prompt opens ends at once
    ("yes</s>", False, "\n</think>\n\nyes"),
    ("hm, let me", True, "hm, let me"),  # cut within its thoughts
    ("<think>hm", True, "hm"),
]


@pytest.mark.parametrize(("reply", "cut", "expected"), THOUGHT)
def test_a_reply_is_what_the_model_would_write_after_a_prompt_that_opens_its_thoughts(
    saved, tiny, reply, cut, expected
):
    tokenizer = load_tokenizer(saved(THINKS))
    assert opens_thoughts(tokenizer) and not opens_thoughts(tiny.tokenizer())
    prompt = render(tokenizer, ASK)
    assert as_sampled(tokenizer, prompt, reply, cut) == expected
    assert (prompt + expected).count("<think>") == 1
    assert as_sampled(tokenizer, "[assistant]", reply, cut) == reply.removesuffix("</s>")  # kept where it is not opened
    closed = prompt + "\n</think>\n\n"  # a template that turns thinking off
    assert as_sampled(tokenizer, closed, reply, cut) == reply.removesuffix("</s>")


@pytest.mark.parametrize(
    ("text", "opened", "answer"),
    [
        ("plain", False, "plain"),
        ("<think>hm</think>\n\nyes", False, "yes"),
        ("hm</think>yes", True, "yes"),
        ("<think>never ends", False, ""),
        ("never ends", True, ""),
        ("<think>a</think>b<think>c</think> d", False, "d"),
        ("<reasoning>a</reasoning>b", False, "b"),
        ("what <think> means", False, "what <think> means"),
    ],
)
def test_the_answer_without_its_thoughts(text, opened, answer):
    assert answer_of(text, opened) == answer


def test_the_directives_of_a_date_are_those_of_strftime():
    for each in chat.DIRECTIVES:
        assert chat.TODAY.strftime(f"%{each}") != f"%{each}"


def test_bare_text_stands_in_place_of_the_template(saved):
    """A prompt is its text, and a reply goes on with it as one text, whose tokens are those of both."""
    tokenizer = load_tokenizer(saved(THINKS), "text")
    opening = [{"role": "user", "content": "The hotel was"}]
    assert is_bare(tokenizer) and not is_bare(load_tokenizer(saved(THINKS)))
    assert render(tokenizer, opening) == "The hotel was" == tokenizer.decode(encode_prompt(tokenizer, opening))
    end = tokenizer.eos_token_id
    for reply, shown in (("fine.", " fine."), (", so.", ", so."), ("'s", "'s"), ("", "")):
        ids = tokenizer(f"The hotel was{shown}", add_special_tokens=False)["input_ids"]
        assert encode_prompt(tokenizer, opening) + encode_response(tokenizer, reply) == [*ids, end]
        assert decode_response(tokenizer, encode_response(tokenizer, reply)) == reply
    assert encode_response(load_tokenizer(saved(THINKS)), "fine.")[0] != encode_response(tokenizer, "fine.")[0]
    assert render(tokenizer, [{"role": "system", "content": "A"}, *opening]) == "A\n\nThe hotel was"


def test_bare_text_begins_with_bos_where_the_tokenizer_puts_it(saved):
    folder = saved(THINKS)
    file = folder / "tokenizer.json"
    whole = Tokenizer.from_file(str(file))
    whole.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    whole.save(str(file))
    tokenizer = load_tokenizer(folder, "text")
    bos = tokenizer.bos_token_id
    assert is_bare(tokenizer) and encode_prompt(tokenizer, ASK) == tokenizer("Hi")["input_ids"]
    assert encode_prompt(tokenizer, ASK)[0] == bos and encode_response(tokenizer, "x")[0] != bos
    saved_again = folder.parent / "again"
    tokenizer.save_pretrained(saved_again)
    assert is_bare(load_tokenizer(saved_again))


def test_a_model_under_another_template_is_another_model():
    """Stages are keyed by it: what was made with a chat template is not taken for what bare text would give."""
    own, bare = (find_model("builtin/base_model", "--model", template) for template in ("chat", "text"))
    assert own.key == find_model("builtin/base_model", "--model").key != bare.key and own.path == bare.path
    assert is_bare(bare.tokenizer()) and not is_bare(own.tokenizer())
