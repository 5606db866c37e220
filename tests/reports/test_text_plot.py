"""The first screen's picture as text."""

from alignment_bench.reports.text_plot import block, rates_and_costs


def cell(mean, low, high):
    return {"mean": mean, "low": low, "high": high, "n": 40}


def test_win_rates_stand_beside_their_cost_the_cheapest_first():
    """From 40% to 70% on 31 characters, a point each: 64 lies at place 24, 61 at 21, 66 at 26, SFT's half at 10."""
    methods = {
        "sft": {"metrics": {"win_rate.gold": cell(0.5, 0.5, 0.5)}, "cost": {}},
        "ppo": {"metrics": {"win_rate.gold": cell(0.65, 0.6, 0.69)}, "cost": {"seconds": 189.0}},
        "dpo": {
            "metrics": {"win_rate.gold": cell(0.64, 0.61, 0.66), "win_rate.judge": cell(0.9, 0.8, 1)},
            "cost": {"seconds": 30.0},
        },
        "best_of_n": {"metrics": {"win_rate.gold": cell(0.55, None, None)}, "cost": {}},
        "theirs": {"metrics": {"win_rate.gold": cell(0.45, 0.41, 0.5)}, "cost": {}, "trained_here": False},
        "unscored": {"metrics": {}, "cost": {"seconds": 1.0}},
    }  # fmt: skip
    title, heads, rows = rates_and_costs({"methods": methods, "comparisons": []}, 31)
    assert title == "Win rate against SFT (true reward) and training time of one seed"
    assert heads == ("", "40%      SFT                70%", "win rate", "time")
    assert [row[0] for row in rows] == ["best_of_n", "theirs (not trained here)", "dpo", "ppo"]
    drawn = {row[0]: row[1:] for row in rows}
    assert drawn["dpo"] == (" " * 10 + "│" + " " * 10 + "───●──" + " " * 4, "64% [61, 66]", "30 s")
    assert drawn["ppo"][1:] == ("65% [60, 69]", "3 min 09 s")
    assert drawn["best_of_n"][1:] == ("55%", "none") and drawn["theirs (not trained here)"][2] == "–"
    assert block([heads, *rows])[3].index("●") == len("theirs (not trained here)") + 2 + 24


def test_nothing_scored_gives_no_rows():
    assert rates_and_costs({"methods": {"sft": {"metrics": {}}}, "comparisons": []})[2] == []
