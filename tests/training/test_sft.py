"""SFT's end: what lies on disk is judged, and never beside the weights that were trained."""

import json
import weakref

from alignment_bench.models.policy import Policy
from alignment_bench.results.records import Prompt
from alignment_bench.training import sft
from alignment_bench.training.loop import Recipe


def test_the_trained_weights_are_let_go_before_those_on_disk_are_read(tiny, tuning, tmp_path, monkeypatch):
    """Two whole models of 7B would not lie side by side."""
    trained, left = [], []
    save, open_policy = sft.save_merged, Policy.open

    def saved(network, folder):
        trained.append(weakref.ref(network.model))
        save(network, folder)

    def opened(*given, **more):
        left.append(trained[0]())
        return open_policy(*given, **more)

    monkeypatch.setattr(sft, "save_merged", saved)
    monkeypatch.setattr(Policy, "open", opened)
    row = sft.Example("a", Prompt("p", (), (5, 6)), (7, 1))
    recipe = Recipe(examples=2, batch_size=1, lr=1e-3, seed=0, label="SFT")
    sft.fine_tune(tiny, tuning, recipe, [row], [row], tmp_path)
    if tuning.lora_rank == 0:
        assert left == [None]
    gate = json.loads((tmp_path / "gate.json").read_text(encoding="utf-8"))
    assert gate["sft"][0] < gate["base"][0]
