"""What became of a source's rows: used, dropped by reason, left over; and the setting that would change it."""

from collections.abc import Mapping
from typing import Any


def account(data: Mapping[str, Any]) -> list[str]:
    """Sentences on a run's data; their numbers add up to the rows that were read. Empty for a record without them."""
    if "used" not in data:
        return []
    dropped, settings, left_over = data["dropped"], data.get("settings", {}), data["left_over"]
    rest = sum(dropped.values()) + left_over
    first = f"{data['used']:,} of {data['read']:,} rows of {data['source']} are used as pairs"
    said = [f"{first}, {rest:,} are not:" if rest else first]
    for reason, count in sorted(dropped.items(), key=lambda item: -item[1]):
        said.append(f"{count:,} dropped: {reason}" + (f" ({settings[reason]} fits all)" if reason in settings else ""))
    left_out = data.get("training_pairs", {}).get("left_out", 0)
    if left_out:
        said.append(f"{left_out:,} of the training split left out by training_pairs")
    if by_rows := left_over - left_out:
        said.append(f"{by_rows:,} usable ones left over by rows={data['used'] + left_out} (rows=null takes them)")
    return said
