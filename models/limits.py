"""The limits of what a model reads: how many tokens, and which."""

from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def context_window(config: Any) -> int | None:
    """Most tokens of a sequence here; None for a model that names no limit.

    Where the scaling of positions depends on the length (longrope, dynamic) it is the original context: beyond it each
    token changes what was computed of those before, also of other sequences in the pass, and cached keys are wrong.
    """
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    by_kind = [rope] if "rope_type" in rope else [part for part in rope.values() if isinstance(part, dict)]
    originals = [
        part.get("original_max_position_embeddings")
        for part in by_kind
        if part.get("rope_type") in ("longrope", "dynamic")
    ]
    return min(filter(None, [getattr(text, "max_position_embeddings", None), *originals]), default=None)


def check_vocabulary(tokenizer: "PreTrainedTokenizerBase", config: Any, where: str) -> None:
    """InputError where the tokenizer has ids that the model has no embedding for; where: how the user named it."""
    size = config.get_text_config().vocab_size
    if len(tokenizer) > size:
        raise InputError(
            f"{where}: its tokenizer has {len(tokenizer)} tokens and its embedding {size}, so some ids have none; give "
            f"the model rows for them (model.resize_token_embeddings({len(tokenizer)})) and save it again"
        )
