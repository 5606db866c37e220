"""What speaks for a method is read from what is published, and nothing else."""

import json

import pytest

from alignment_bench.benchmarks.definition import proof
from alignment_bench.benchmarks.definition.plugins import available


@pytest.fixture
def publish(tmp_path, monkeypatch):
    monkeypatch.setattr(proof, "PUBLISHED", tmp_path)

    def write(**files):
        proof._read.cache_clear()
        for name, content in files.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))

    write()
    yield write
    proof._read.cache_clear()


def test_words_follow_the_published_numbers(publish):
    near, far = ({"required": 0.02, "seeds": [{"kl_to_optimum": 0.01}, {"kl_to_optimum": x}]} for x in (0.02, 0.021))
    equal, unequal = ({"trl": "1.2.3", "of": "DPOTrainer", "difference": x} for x in (1e-4, 2e-4))
    publish(
        optimum={"dpo": near, "ppo": far, "orpo": {**near, "required": None}},
        parity={"dpo": equal, "ppo": equal, "orpo": unequal},
    )
    words = {name: proof.proof_of(name).word for name in ("dpo", "ppo", "orpo", "kto", "trl-dpo")}
    assert words == {"dpo": "optimum, TRL", "ppo": "TRL", "orpo": "own tests", "kto": "own tests", "trl-dpo": "is TRL"}
    publish(optimum={"rloo": {"required": 0.02, "seeds": [{"kl_to_optimum": 0.01}]}})
    assert proof.proof_of("rloo").lines()[0] == "Known optimum: within 0.0100 nats of KL in one seed (0.02 wanted)."
    publish(optimum={"dpo": near}, parity={"dpo": equal})
    assert proof.proof_of("dpo").lines() == [
        "Known optimum: within 0.0200 nats of KL in each of 2 seeds (0.02 wanted).",
        "TRL 1.2.3 (DPOTrainer): the same loss and gradient of the same log-probs, to 1e-04.",
    ]


def test_an_installation_without_published_files_claims_nothing(publish):
    assert proof.proof_of("dpo").word == "own tests" and proof.seeds_of("dpo") == []


def test_seeds_that_finished_are_counted_against_those_of_sft(publish):
    rows = {"sft": {"seeds": 5}, "dpo": {"seeds": 4}}
    publish(five={"benchmark": "quick", "methods": rows}, one={"benchmark": "hh", "methods": {"sft": {"seeds": 1}}})
    assert proof.seeds_of("dpo") == ["quick: 4 of 5 seeds finished (five)"] and proof.seeds_of("ppo") == []


def test_a_plugin_is_not_ours_whatever_its_name(publish):
    if "slic" not in available("methods"):
        pytest.skip("the example plugin is not installed")
    publish(parity={"slic": {"trl": "1", "of": "x", "difference": 0.0}})
    assert proof.proof_of("slic").word == "not ours"
    assert "a plugin" in proof.proof_of("slic").lines()[0].lower()


def test_what_is_published_today():
    assert proof.proof_of("dpo").word == "optimum, TRL" == proof.proof_of("rloo").word
    assert proof.proof_of("ppo").word == "optimum, TRL" == proof.proof_of("ipo").word
    assert proof.proof_of("kto").word == "TRL"
