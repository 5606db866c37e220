"""The world of the benchmark `sentiment`: openings about ordinary things, and how positive a continuation sounds.

The true reward is VADER's compound score of the continuation: Hutto and Gilbert (2014), VADER: A Parsimonious
Rule-based Model for Sentiment Analysis of Social Media Text. It stands for the sentiment classifier of the controlled
experiment of Rafailov et al. (2023, arXiv:2305.18290), section 6.
"""

from collections.abc import Sequence
from functools import lru_cache

try:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
except ModuleNotFoundError:
    raise ModuleNotFoundError("it needs VADER: pip install 'alignment-bench[sentiment]'") from None

FRAMES = (
    "The {thing} was",
    "Yesterday the {thing} was",
    "On the whole, the {thing} is",
    "Everyone knows that the {thing} is",
    "My brother said the {thing} was",
    "After a week, the {thing} seemed",
    "They left because the {thing} was",
    "As far as I know, the {thing} is",
)  # none of their words, nor of the things, is in VADER's lexicon
THINGS = (
    "airport apartment bakery balcony bank bathroom beach bed bicycle boat book breakfast bridge bus cafe camera car "
    "carpet castle cat chair church cinema city coat coffee concert desk dentist dinner doctor dog driver exam farm "
    "film flight garden glove guide gym haircut hat hike horse hospital hotel house island jacket job keyboard "
    "kitchen lake lamp landlord laptop lecture lesson library lunch manager market meal mechanic meeting menu mirror "
    "mountain museum music neighbour office oven painting park parade phone piano pillow pizza plumber pool printer "
    "radio restaurant river road room salad school seat service shirt shoe shop shower sofa song soup speech station "
    "street student suitcase taxi teacher team tent theatre tour town toy train trip umbrella uncle valley village "
    "waiter wallet watch weather website wedding window winter zoo"
).split()


def openings() -> list[dict[str, str]]:
    """Rows with a prompt: every frame with every thing, things first, so that the first rows have all frames."""
    return [{"prompt": frame.format(thing=thing)} for thing in THINGS for frame in FRAMES]


@lru_cache(maxsize=1)
def _vader() -> SentimentIntensityAnalyzer:
    return SentimentIntensityAnalyzer()


def true_reward(prompt: Sequence[dict] | str, response: str) -> dict[str, float]:
    """VADER's compound score of the response, from -1 (negative) to 1 (positive); the opening adds nothing to it."""
    return {"reward": _vader().polarity_scores(response)["compound"]}
