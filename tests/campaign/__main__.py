"""Break things many times and count what was lost, used although damaged, stuck or doubled: all must be zero.

python -m tests.campaign               # an hour on two cores; exit status 1 if any count is not zero
python -m tests.campaign flips soak    # only these
python -m tests.campaign --tiny        # a few of each, in minutes
python -m tests.campaign kills --times 6 --seed 12    # kills number 12 to 17 alone
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping

from amalgam.pipeline.tracking.run_log import ended_by_signals
from tests.campaign.drivers import two_drivers
from tests.campaign.kills import kills
from tests.campaign.process import flips, soak

PARTS: Mapping[str, tuple[Callable[..., Mapping[str, float]], int, int]] = {
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
    parser.add_argument("--times", type=int, help="how many of each")
    parser.add_argument("--seed", type=int, help="other kills than those of seed 0")
    given = parser.parse_args()
    if unknown := set(given.names) - set(PARTS):
        parser.error(f"there is no part {min(unknown)!r}: choose from {', '.join(PARTS)}")
    bad = 0.0
    for name in given.names:
        part, times, few = PARTS[name]
        begun = time.monotonic()
        number = given.times or (few if given.tiny else times)
        with ended_by_signals():  # servers that it started end with it
            counts = part(number, seed=given.seed) if given.seed and part is kills else part(number)
        bad += sum(count for what, count in counts.items() if what.startswith("bad"))
        print(f"{name}: " + ", ".join(f"{what} {count:g}" for what, count in counts.items()), end="")
        print(f" ({time.monotonic() - begun:.0f} s)", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
