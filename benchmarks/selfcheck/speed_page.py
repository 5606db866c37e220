"""The findings of `bench speed`, as lines of text and as a page."""

from typing import Any


def line(name: str, found: dict[str, Any]) -> str:
    """One work in one line."""
    ratios = found["ratios"]
    said = (
        f"{name:<13} {found['ours']['seconds']:8.3f} s {found['peer']['seconds']:8.3f} s  {found['ratio']:5.2f}x "
        f"({min(ratios):.2f} to {max(ratios):.2f}, wanted {found['target']})  "
        f"{found['ours']['peak_megabytes']:.0f} and {found['peer']['peak_megabytes']:.0f} MB"
    )
    if "executed_over_needed" in found["ours"]:
        ours, peer = found["ours"], found["peer"]
        said += (
            f"  passes {ours['executed_over_needed']:.2f} and {peer['executed_over_needed']:.2f}, matrix rate "
            f"{ours['matrix_rate_share']:.0%} and {peer['matrix_rate_share']:.0%}"
        )
    return said


def page(found: dict[str, Any]) -> str:
    """The figures as a table in Markdown."""
    machine, packages = found["machine"], found["packages"]
    lines = [
        "# Ours beside TRL and transformers",
        "",
        "Seconds of a step, a round or a generation: medians of some runs of each side in turn, each in a process of "
        "its own as it comes (ours lets the C library keep freed memory, which would quicken the peer too: "
        "runtime/memory.py), the first step and those in which the policy was looked at left out, on "
        f"{machine['processor']} ({'with' if machine['has_bf16_units'] else 'without'} bf16 units), "
        f"{machine['device']} with {machine['threads']} threads ({machine['platform']}), fp32; "
        + ", ".join(f"{name} {number}" for name, number in packages.items())
        + f"; {found['date']}. Matrix products reached {found['matrix_gflops']} GFLOP/s on this machine, measured just "
        "before. Passes: tokens that went forward over tokens that had to (each distinct prompt once, no padding; "
        "ours pads only within attention, which is not counted). Share: of that matrix rate. MB: resident memory at "
        "the peak of a run, beyond what was in use before. Derived from speed.json, which `bench speed --out FOLDER` "
        "writes.",
        "",
        "| work | ours | peer | ratio | range | runs | wanted | passes | share | MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found["work"].values():
        ours, peer, ratios = row["ours"], row["peer"], row["ratios"]
        passes = share = "-"
        if "executed_over_needed" in ours:
            passes = f"{ours['executed_over_needed']:.2f}, {peer['executed_over_needed']:.2f}"
            share = f"{ours['matrix_rate_share']:.0%}, {peer['matrix_rate_share']:.0%}"
        lines.append(
            f"| {row['what']} | {ours['seconds']:.2f} | {peer['seconds']:.2f} | {row['ratio']:.2f} "
            f"| {min(ratios):.2f} to {max(ratios):.2f} | {len(ratios)} | {row['target']} | {passes} | {share} "
            f"| {ours['peak_megabytes']:.0f}, {peer['peak_megabytes']:.0f} |"
        )
    return "\n".join([*lines, ""])
