"""The last step to logits, by hand, and by the names of configurations."""

import math

import pytest
import torch
from transformers import CohereConfig, Gemma2Config, GraniteConfig, LlamaConfig, RecurrentGemmaConfig

from alignment_bench.models.logit_rule import LogitRule


def test_a_factor_then_a_soft_cap():
    logits = torch.tensor([0.0, 4.0, -400.0])
    assert LogitRule(0.5, 2.0)(logits).tolist() == pytest.approx([0.0, 2 * math.tanh(1.0), -2.0])
    assert LogitRule(0.5)(logits).tolist() == [0.0, 2.0, -200.0]
    assert LogitRule()(logits) is logits


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        (LlamaConfig(), LogitRule()),
        (CohereConfig(logit_scale=0.0625), LogitRule(0.0625)),
        (GraniteConfig(logits_scaling=8.0), LogitRule(0.125)),
        (Gemma2Config(final_logit_softcapping=30.0), LogitRule(1.0, 30.0)),
        (Gemma2Config(final_logit_softcapping=None), LogitRule()),
        (RecurrentGemmaConfig(logits_soft_cap=20.0), LogitRule(1.0, 20.0)),
    ],
)
def test_the_names_that_configurations_have_for_them(config, rule):
    assert LogitRule.of(config) == rule
