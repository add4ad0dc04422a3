"""The end of an error about an unknown name: what the user may have meant."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a `name` of some `kind` ("model", "data set") that is not among the `known` ones."""
    known = sorted(known)
    spelled = {one.lower(): one for one in known}
    near = [spelled[one] for one in get_close_matches(name.lower(), spelled, n=3, cutoff=0.6)]
    listed = ", ".join(known[:20]) or "none"
    remedy = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known are {listed}."
    return ValueError(f"there is no {kind} {name!r}: {remedy}")
