"""Volumes in the layout of OCTA-500 (Li et al. 2024): B-scans as pictures, surfaces of layers as arrays.

    ROOT/OCT/ID/1.bmp ...     B-scans of the structure, (depth, width) each
    ROOT/OCTA/ID/1.bmp ...    those of the flow
    ROOT/GT_Layers/ID.mat     `Layer`, (surfaces, B-scans, width): depths of ILM, IPL, OPL, ISOS, RPE and BM

A volume is (depth, B-scans, width), subsampled to the requested shape; its layers are ILM to OPL and OPL to BM, as in
XOCT. Written from the data set's description, and tested on volumes made in that layout: the set itself is not public.
"""

from pathlib import Path

import numpy as np
import torch
from scipy.io import loadmat
from torch import Tensor
from torch.nn.functional import interpolate

from amalgam.tasks.data.layouts import open_picture
from amalgam.tasks.imaging.volumes.projection import one_hot_layers
from amalgam.tasks.imaging.volumes.synthetic import NUM_LAYERS, Volumes

ILM, OPL, BM = 0, 2, 5  # places of the surfaces that part layers
PARTS = ("OCT", "OCTA")


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


def read_volumes(root: Path, ids: list[str], shape: tuple[int, int, int]) -> Volumes:
    """These volumes at a shape (depth, B-scans, width), structure and flow in [-1, 1]."""
    read = [_volume(root, one, shape) for one in ids]
    return Volumes(*(torch.stack([parts[place] for parts in read]) for place in range(3)))


def _volume(root: Path, one: str, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    structure, flow = (_scans(root / part / one) for part in PARTS)
    surfaces = torch.from_numpy(loadmat(root / "GT_Layers" / f"{one}.mat")["Layer"].astype(np.float32))
    depth, num_scans, width = structure.shape
    if flow.shape != structure.shape or surfaces.shape[1:] != (num_scans, width):
        raise ValueError(
            f"volume {one} does not fit itself: OCT {tuple(structure.shape)}, OCTA {tuple(flow.shape)}, "
            f"surfaces {tuple(surfaces.shape)}"
        )
    z = torch.arange(depth)[:, None, None]
    inner = (surfaces[ILM] <= z) & (z < surfaces[OPL])
    outer = (surfaces[OPL] <= z) & (z < surfaces[BM])
    labels = _resized((inner.float() + 2 * outer.float())[None, None], shape, "nearest")[0].long()
    scaled = [_resized(each[None, None] / 127.5 - 1, shape, "trilinear")[0] for each in (structure, flow)]
    return scaled[0], scaled[1], one_hot_layers(labels, NUM_LAYERS)[0]


def _scans(folder: Path) -> Tensor:
    """B-scans in the order of their numbers, (depth, B-scans, width), grey levels."""
    files = sorted(folder.glob("*.bmp"), key=lambda file: int(file.stem))
    if not files:
        raise ValueError(f"there is no B-scan in {folder}: it needs pictures 1.bmp, 2.bmp and so on")
    return torch.stack([torch.from_numpy(np.array(open_picture(file).convert("L"), np.float32)) for file in files], 1)


def _resized(volumes: Tensor, shape: tuple[int, int, int], mode: str) -> Tensor:
    return interpolate(volumes, shape, mode=mode)
