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


def read_volumes(root: Path, ids: list[str], shape: tuple[int, int, int]) -> Volumes:
    """These volumes at a shape (depth, B-scans, width), structure and flow in [-1, 1]."""
    read = [_volume(root, one, shape) for one in ids]
    return Volumes(*(torch.stack([parts[place] for parts in read]) for place in range(3)))


def _volume(root: Path, one: str, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    structure, flow = (_scans(root / part / one) for part in PARTS)
    surfaces = _surfaces(root / "GT_Layers" / f"{one}.mat")
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


def _surfaces(file: Path) -> Tensor:
    """Depths (surfaces, B-scans, width) in voxels. Raises ValueError, naming the file, for any other content."""
    try:
        surfaces = np.asarray(loadmat(file)["Layer"], np.float32)
    except Exception as error:  # scipy raises what its parser happens to meet
        raise ValueError(f"{file} cannot be read as a MATLAB file (up to 7.2) with the array Layer: {error}") from error
    if surfaces.ndim != 3 or len(surfaces) <= BM or not np.isfinite(surfaces).all():
        raise ValueError(f"Layer in {file} must be {BM + 1} finite surfaces, B-scans, width; got {surfaces.shape}")
    return torch.from_numpy(surfaces)


def _scans(folder: Path) -> Tensor:
    """B-scans in the order of their numbers, (depth, B-scans, width), grey levels."""
    files = [file for file in folder.glob("*.bmp") if file.stem.isdigit()]
    if not files:
        raise ValueError(f"there is no B-scan in {folder}: it needs pictures 1.bmp, 2.bmp and so on")
    try:
        scans = [np.array(open_picture(f).convert("L"), np.float32) for f in sorted(files, key=lambda f: int(f.stem))]
    except OSError as error:  # pillow's own, which names the file
        raise ValueError(f"a B-scan in {folder} cannot be decoded: {error}") from error
    if len(shapes := {scan.shape for scan in scans}) > 1:
        raise ValueError(f"B-scans in {folder} must be of one size, got {sorted(shapes)}")
    return torch.from_numpy(np.stack(scans, 1))


def _resized(volumes: Tensor, shape: tuple[int, int, int], mode: str) -> Tensor:
    return interpolate(volumes, shape, mode=mode)
