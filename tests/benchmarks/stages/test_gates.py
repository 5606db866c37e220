"""Two reward models that share their seed or pairs are refused."""

import pytest

from alignment_bench.benchmarks.stages.gates import check_reward_models_apart
from alignment_bench.errors import InputError
from alignment_bench.results.store import Store


@pytest.mark.parametrize(
    ("training", "evaluation", "said"),
    [
        ({"seed": 1, "train": "x"}, {"seed": 2, "train": "y"}, None),
        ({"seed": 1, "train": "x"}, {"seed": 1, "train": "y"}, r"share the seed \(1\)"),
        ({"seed": 1, "train": "x"}, {"seed": 2, "train": "x"}, r"share the training pairs \(x\)"),
    ],
)
def test_reward_models_share_neither_seed_nor_pairs(tmp_path, training, evaluation, said):
    store = Store(tmp_path)
    made = {
        role: store.stage("reward_model", inputs, lambda out: None)
        for role, inputs in (("training", training), ("evaluation", evaluation))
    }
    if said is None:
        check_reward_models_apart(made)
        return
    with pytest.raises(InputError, match=f"training and evaluation reward models {said}"):
        check_reward_models_apart(made)
