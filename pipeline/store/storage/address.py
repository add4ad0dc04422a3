"""What a user writes for a root, `--root runs` or `AMALGAM_ROOT`: a folder, or an address with a scheme."""

import re
from pathlib import Path
from urllib.parse import unquote

SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/+")  # `Path` has made one slash of two; a drive is no scheme
FILE = "file"


def root_path(root: str | Path) -> Path:
    """The folder of results that a user names. Raises ValueError for an address of what cannot hold results."""
    matched = SCHEME.match(str(root))
    if matched is None:
        return Path(root)
    if matched["scheme"].lower() == FILE:
        return Path("/" + unquote(str(root)[matched.end() :]))
    raise ValueError(f"a root cannot be at {matched['scheme']}://: give a folder, such as --root runs")
