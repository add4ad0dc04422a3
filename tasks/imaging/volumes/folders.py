"""Which volumes lie in a folder in the layout of OCTA-500, and which are trained on. Light: plans ask it."""

from pathlib import Path


def volume_ids(root: Path) -> list[str]:
    """The volumes that are there whole, in order. Raises ValueError, naming what is missing, if there are not two."""
    if not (root / "OCT").is_dir():
        raise ValueError(
            f"{root} is not in the layout of OCTA-500: it has no folder OCT with a folder of B-scans per volume"
        )
    ids = sorted(folder.name for folder in (root / "OCT").iterdir() if folder.is_dir())
    for one in ids:
        for path in (root / "OCTA" / one, root / "GT_Layers" / f"{one}.mat"):
            if not path.exists():
                raise ValueError(f"volume {one} of {root} is not whole: there is no {path}")
    if len(ids) < 2:
        raise ValueError(f"{root} has {len(ids)} volumes: at least one to train on and one to test on are needed")
    return ids


def split_ids(root: Path, test_share: float) -> tuple[list[str], list[str]]:
    """Volumes to train on and to test on, whole ones: no eye is on both sides of the split."""
    ids = volume_ids(root)
    num_test = min(len(ids) - 1, max(1, round(test_share * len(ids))))
    return ids[:-num_test], ids[-num_test:]
