"""`bench export`: the policies' responses as files of other tools, or one policy as a folder that others load."""

from pathlib import Path
from typing import Annotated

import typer

from ...errors import InputError, one_of
from ...results.integrity import own_folder
from ...runtime.quiet import quiet
from .training import Device, TrustRemoteCode


def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    format: Annotated[str | None, typer.Option("--format", help="Responses for alpaca_eval or arena.")] = None,
    questions: Annotated[
        Path | None, typer.Option(help="The tool's own questions (or outputs) for the policies to answer.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Longest response to --questions, in tokens; by default the benchmark's.", min=1)
    ] = None,
    policy: Annotated[str | None, typer.Option(help="A row whose trained policy is to be written, with --to.")] = None,
    seed: Annotated[int, typer.Option(help="Which of the row's trainings.", min=0)] = 0,
    to: Annotated[Path | None, typer.Option(help="New folder for the policy.")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Add a LoRA adapter into its base's weights.")] = False,
    push: Annotated[str | None, typer.Option(help="Upload that folder too: hub:OWNER/NAME.")] = None,
    public: Annotated[bool, typer.Option("--public", help="A new repository of --push is public.")] = False,
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
    out: Annotated[Path | None, typer.Option(help="Folder of --format's files; by default RUN/export.")] = None,
) -> None:
    """Write the policies' responses for AlpacaEval or Arena-Hard-Auto, or one policy as a folder that others load.

    Example: bench export RUN --policy dpo --seed 0 --to my-policy --merge
    """
    from ...results.outputs import FORMATS
    from ...results.run_folder import find_run

    if (format is None) == (policy is None):
        raise InputError("say what to export: responses with --format alpaca_eval or arena, or a policy with --policy")
    form = one_of("--format", format, FORMATS) if format else None
    if max_new_tokens and not questions:
        raise InputError("--max-new-tokens goes with --questions; the run's own responses are there already")
    if policy and to is None:
        raise InputError("--policy needs --to, the new folder that the policy is written to")
    found = find_run(run_folder)
    quiet()

    from ...models.model_files import allow_remote_code

    allow_remote_code(trust_remote_code)
    if form:
        from ..export import export as write

        folder = out or own_folder(found.path / "export")
        for path in write(found, form, folder, questions=questions, max_new_tokens=max_new_tokens, device=device):
            print(path)
    elif policy and to:
        from ..export_policy import export_policy

        print("\n".join(export_policy(found, policy, seed, to, merge=merge, push=push, private=not public)))
