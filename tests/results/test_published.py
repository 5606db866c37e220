"""The published texts say what their files say."""

import json
from pathlib import Path

import pytest

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "published"


@pytest.mark.parametrize(
    ("facet", "method"),
    [("helpful", "orpo"), ("helpful", "dpo"), ("helpful", "ppo")]
    + [(facet, method) for facet in ("harmless", "honest") for method in ("ppo", "dpo")],
)
def test_changes_of_facets_in_the_text_are_those_of_the_file(facet, method):
    text = " ".join((PUBLISHED / "README.md").read_text(encoding="utf-8").replace("−", "-").split())
    row = json.loads((PUBLISHED / "quick_5_seeds.json").read_text())["changes"][f"reward.gold.{facet}"][method]
    assert f"{row['difference']:+.3f} [{row['low']:.3f}, {row['high']:.3f}]" in text
