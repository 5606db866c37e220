"""A model's folder and what it may hold: weights as safetensors, settings as JSON; code only where allowed."""

import json
from pathlib import Path

from ..errors import InputError

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
SETTINGS = ("config.json", "tokenizer_config.json")
ADAPTER_CONFIG = "adapter_config.json"
MERGE = (
    "merge it into its base first: peft's AutoPeftModelForCausalLM.from_pretrained(FOLDER).merge_and_unload(), saved "
    "with save_pretrained beside the tokenizer"
)

_allowed = False  # whether code that comes with a model may run in this process


def allow_remote_code(allowed: bool) -> None:
    """Settle for this process whether code that comes with a model may run; until then it may not.

    It holds for the process and not for a model, for the checkpoints made from such a model need the same code.
    """
    global _allowed
    _allowed = allowed


def remote_code_allowed() -> bool:
    """For `trust_remote_code` of every `from_pretrained`."""
    return _allowed


def check_model_files(folder: Path, where: str) -> None:
    """InputError for a folder whose weights are pickles alone, or that needs code which comes with it.

    where: how the user named it. Pickles beside safetensors are never opened. Code in the folder is run only where
    `allow_remote_code` says so, and code in another repository never: the folder's content is what a run goes by.
    """
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles and not any((folder / name).exists() for name in WEIGHTS):
        raise InputError(
            f"{where}: its weights are pickled ({pickles[0]}), and reading a pickle can run any code; "
            f"save the model as safetensors, as transformers' save_pretrained does"
        )
    _check_adapter(folder, where)
    for name in SETTINGS:
        settings = _read(folder / name, where)
        if _allowed and "--" in json.dumps(settings.get("auto_map", "")):
            raise InputError(
                f"{where}: {name} asks to run code of another repository (auto_map); put that code into the model's "
                f"folder and name it there"
            )
        if "auto_map" in settings and not _allowed and not _known(settings, name):
            raise InputError(
                f"{where}: {name} asks to run code that comes with the model (auto_map); read that code, and if you "
                f"trust it add --trust-remote-code, or use a model whose architecture transformers has itself"
            )


def check_whole(folder: Path, where: str) -> None:
    """InputError for a model that cannot be trained from: an adapter, or quantized weights."""
    if (folder / ADAPTER_CONFIG).exists():
        raise InputError(f"{where} is an adapter, and a run needs a whole model; {MERGE}")
    settings = _read(folder / "config.json", where)
    text = settings.get("text_config") or {}
    if found := settings.get("quantization_config") or text.get("quantization_config"):
        kind = found.get("quant_method", "in a way of its own") if isinstance(found, dict) else found
        raise InputError(
            f"{where}: its weights are quantized ({kind}), and these cannot be trained here; give the model in bf16 or "
            f"fp32"
        )


def _check_adapter(folder: Path, where: str) -> None:
    """InputError for an adapter that is more than LoRA matrices beside linear layers."""
    settings = _read(folder / ADAPTER_CONFIG, where)
    kind = settings.get("peft_type", "LORA")
    if kind != "LORA" or settings.get("use_dora"):
        raise InputError(
            f"{where} is an adapter of the kind {'DoRA' if kind == 'LORA' else kind}, not plain LoRA; {MERGE}"
        )
    if more := [name for name in settings.get("modules_to_save") or () if name != "score"]:
        raise InputError(
            f"{where} is an adapter that replaces whole layers as well (modules_to_save: {', '.join(more)}), which is "
            f"not supported; {MERGE}"
        )


def _read(path: Path, where: str) -> dict:
    if not path.exists():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise InputError(f"{where}: {path.name} is not valid JSON; save the model again") from None
    return settings if isinstance(settings, dict) else {}


def _known(settings: dict, name: str) -> bool:
    """True if transformers itself has what the settings ask for."""
    if name == "config.json":
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

        return settings.get("model_type") in CONFIG_MAPPING_NAMES
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    return tokenizer_class_from_name(str(settings.get("tokenizer_class"))) is not None
