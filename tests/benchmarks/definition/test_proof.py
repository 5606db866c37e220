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
    assert proof.proof_of("dpo").word == "own tests" and proof.unfinished("dpo") == ""


def test_trainings_that_finished_are_counted_against_those_that_were_asked(publish, tmp_path):
    rows = {"sft": {"seeds": 5}, "dpo": {"seeds": 4}, "dpo:beta=0.5": {"seeds": 5}, "dpop": {"seeds": 0}}
    publish(five={"benchmark": "quick", "methods": rows}, one={"benchmark": "hh", "methods": {"sft": {"seeds": 1}}})
    assert proof.seed_lines("dpo") == ["9 of 10 trainings finished (quick, five)."]
    assert (proof.unfinished("dpo"), proof.unfinished("dpop"), proof.unfinished("ppo")) == ("1 of 10", "5 of 5", "")
    assert proof.seed_lines("ppo") == ["How many of its seeds finish is not known: no published run has it."]
    runs = [{"failures": {}}, {"failures": {"dpo seed 0": "diverged", "dpo:beta=1 seed 2": "diverged"}}]
    (tmp_path / "studies").mkdir()
    study = {"benchmark": "quick", "seeds": 3, "methods": ["dpo", "dpo:beta=1", "ppo"], "runs": runs}
    publish(**{"studies/noise": study})
    assert proof.seed_lines("dpo")[1:] == ["10 of 12 trainings finished (quick, noise)."]
    assert (proof.unfinished("dpo"), proof.unfinished("ppo")) == ("3 of 22", "0 of 6")


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
