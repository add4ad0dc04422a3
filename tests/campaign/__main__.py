"""Break things many times and count what was lost, used although damaged, stuck or doubled: all must be zero.

python -m tests.campaign               # an hour on two cores; exit status 1 if any count is not zero
python -m tests.campaign flips soak    # only these
python -m tests.campaign --tiny        # a few of each, in minutes
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping

from tests.campaign.drivers import kills, two_drivers
from tests.campaign.process import flips, soak

PARTS: Mapping[str, tuple[Callable[[int], Mapping[str, float]], int, int]] = {
    "flips": (flips, 300, 20),
    "soak": (soak, 1000, 200),
    "drivers": (two_drivers, 20, 2),
    "kills": (kills, 100, 3),
}
"""What runs, how often, and how often at a small size; counts whose names begin with `bad` must be zero."""


def main() -> int:
    """The exit status: 0 if nothing bad was counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(PARTS), help="which; all without a name")
    parser.add_argument("--tiny", action="store_true", help="a few of each")
    given = parser.parse_args()
    if unknown := set(given.names) - set(PARTS):
        parser.error(f"there is no part {min(unknown)!r}: choose from {', '.join(PARTS)}")
    bad = 0.0
    for name in given.names:
        part, times, few = PARTS[name]
        begun = time.monotonic()
        counts = part(few if given.tiny else times)
        bad += sum(count for what, count in counts.items() if what.startswith("bad"))
        print(f"{name}: " + ", ".join(f"{what} {count:g}" for what, count in counts.items()), end="")
        print(f" ({time.monotonic() - begun:.0f} s)", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
