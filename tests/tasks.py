"""Made-up pairs, prompts and methods of tests and of the scripts that they start: seconds of training."""

from alignment_bench.methods.dpo import DPO
from alignment_bench.methods.orpo import ORPO
from alignment_bench.methods.ppo import PPO
from alignment_bench.models.tuning import Tuning
from alignment_bench.results.records import Pair, Prompt

PROMPTS = [Prompt(f"p{i}", ({"role": "user", "content": "?"},), (0, 10 + i, 11, *range(12, 12 + i))) for i in range(6)]
PAIRS = [Pair(f"x{i}", p, (20 + i, 30, 1), (40 + i, 41, 42, 1)) for i, p in enumerate(PROMPTS)]
TUNING = Tuning(precision="fp32", device="cpu")
METHODS = {
    "dpo": DPO(lr=1e-3, batch_size=4),
    "orpo": ORPO(lr=1e-3, batch_size=4),
    "ppo": PPO(lr=1e-3, rollout_size=8, minibatch_size=4, epochs=2, target_kl=0.1),
}
