"""The one way to print: as wide as the terminal, and wide enough for a table where there is none."""

import shutil
import sys
from pathlib import Path

from rich.console import Console

PLAIN_WIDTH = 160  # characters; in a file or pipe rich would otherwise fold tables at 80


def output() -> Console:
    """Standard output."""
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def say(text: str, console: Console | None = None) -> None:
    """Print one line as it is: not folded, not coloured."""
    (console or output()).print(text, soft_wrap=True, highlight=False, markup=False)


def first_line(error: Exception) -> str:
    """The first line of what an error says; its kind if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def program() -> str:
    """How the user calls this program from where they are, for lines that they may copy."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return "python -m amalgam"
    installed = shutil.which("amalgam")
    known = called.name != "amalgam" or (installed and Path(installed).resolve() == called.resolve())
    return "amalgam" if known else str(called)
