"""`bench audit-data`: what is in a preference set, what is wrong with it, and what to fix first."""

from pathlib import Path
from typing import Annotated

import typer

from ...errors import InputError
from .training import Columns


def audit_data(
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="A file, folder, hub id, or a folder of `bench collect` with labels.")
    ],
    split: Annotated[str, typer.Option(help="Split of a hub data set or of a folder with splits.")] = "train",
    columns: Columns = None,
    against: Annotated[
        str | None, typer.Option(help="The other side of a split, to look for prompts on both sides.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Count tokens with this model's tokenizer.")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens that fit; by default the model's own.", min=1)] = None,
    out: Annotated[Path | None, typer.Option(help="HTML page to write; by default NAME.audit.html here.")] = None,
) -> None:
    """Check preference data: duplicates, leaks, contradictions, biases, agreement; print and write a page.

    Example: bench audit-data preferences.jsonl
    """
    if context and not model:
        raise InputError("--context goes with --model, whose tokenizer counts; give both")
    from ...preferences.audit import audit
    from ...preferences.columns import parse_columns
    from ...preferences.findings import as_text, write_page
    from ...preferences.judgements import read_judgements

    named = parse_columns(columns)
    data = read_judgements(source, split, named)
    other = read_judgements(against, split, named) if against else None
    sections = audit(data, other, _tokens(model, context) if model else None)
    page = out or Path(f"{Path(source).name.split('.')[0] or 'preferences'}.audit.html")
    write_page(page, data, sections)
    print(as_text(data, sections))
    print(f"\npage: {page}")


def _tokens(model: str, context: int | None):
    """The tokenizer and context of a model; InputError if either is not to be had."""
    from ...models.chat import encode_prompt, encode_response, load_tokenizer
    from ...models.limits import context_window
    from ...preferences.audit import Tokens

    tokenizer = load_tokenizer(model)
    if context is None:
        from transformers import AutoConfig

        try:
            context = context_window(AutoConfig.from_pretrained(model))
        except (OSError, ValueError):
            context = None
        if context is None:
            raise InputError(f"{model} does not say how many tokens fit; give --context")

    def count(row) -> int:
        response = max((encode_response(tokenizer, text) for text in (row.first, row.second)), key=len)
        return len(encode_prompt(tokenizer, row.prompt)) + len(response)

    return Tokens(model, count, context)
