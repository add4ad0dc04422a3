"""Layered volumes: projections are masked means, windows are stitched whole, the layer loss does what it is for."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from amalgam.tasks.imaging.volumes.config import TranslationConfig
from amalgam.tasks.imaging.volumes.folders import split_ids
from amalgam.tasks.imaging.volumes.octa500 import read_volumes
from amalgam.tasks.imaging.volumes.projection import one_hot_layers, project, projection_errors, projection_loss
from amalgam.tasks.imaging.volumes.synthetic import make_volumes
from amalgam.tasks.imaging.volumes.translation import measured, train_translator, translator
from amalgam.tasks.imaging.volumes.unet import UNet3d
from amalgam.tasks.imaging.volumes.windows import cropped, sliding_window

SHAPE = (8, 16, 16)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layers(seed=0, num_layers=3):
    labels = torch.randint(num_layers, (2, *SHAPE), generator=torch.Generator().manual_seed(seed))
    labels[0, :, 0, 0] = 0  # a column in which two layers are absent
    return one_hot_layers(labels, num_layers)


def test_a_constant_volume_projects_to_itself_where_a_layer_is_and_to_zero_elsewhere():
    found = project(torch.full((2, 1, *SHAPE), 0.7), layers())
    present = layers().sum(2) > 0
    torch.testing.assert_close(found[present], torch.full_like(found[present], 0.7), rtol=1e-5, atol=1e-5)
    assert (found[~present] == 0).all() and (~present).any()


def test_one_layer_of_everything_is_the_plain_mean():
    volumes = noise(2, 1, *SHAPE)
    torch.testing.assert_close(project(volumes, torch.ones(2, 1, *SHAPE)), volumes.mean(2), rtol=1e-5, atol=1e-5)


def test_projections_of_a_partition_add_up_to_the_mean():
    volumes, parts = noise(2, 1, *SHAPE), layers()
    summed = (parts.sum(2) * project(volumes, parts)).sum(1, keepdim=True)
    torch.testing.assert_close(summed, SHAPE[0] * volumes.mean(2), rtol=1e-4, atol=1e-4)


def test_projections_are_linear():
    first, second, parts = noise(2, 1, *SHAPE), noise(2, 1, *SHAPE, seed=1), layers()
    torch.testing.assert_close(
        project(2 * first - second, parts), 2 * project(first, parts) - project(second, parts), rtol=1e-4, atol=1e-5
    )


def test_gradients_stay_inside_the_layer():
    volumes, parts = noise(2, 1, *SHAPE).requires_grad_(), layers()[:, 1:2]
    projection_loss(volumes, noise(2, 1, *SHAPE, seed=1), parts).backward()
    assert (volumes.grad[parts == 0] == 0).all() and (volumes.grad[parts == 1] != 0).all()


def test_errors_count_only_columns_that_have_the_layer():
    parts = torch.zeros(1, 1, 2, 1, 2)
    parts[..., 0] = 1
    found, wanted = torch.ones(1, 1, 2, 1, 2), torch.zeros(1, 1, 2, 1, 2)
    assert projection_errors(found, wanted, parts).tolist() == pytest.approx([1.0], rel=1e-5)


@pytest.mark.parametrize("window, stride", [((4, 8, 8), (4, 8, 8)), ((4, 8, 7), (3, 5, 4)), ((8, 16, 16), (1, 1, 1))])
def test_stitching_windows_of_the_identity_gives_the_volume(window, stride):
    volumes = noise(2, 1, *SHAPE)
    torch.testing.assert_close(sliding_window(lambda part: part, volumes, window, stride), volumes)


def test_windows_average_where_they_overlap():
    calls = iter(range(100))
    found = sliding_window(
        lambda part: torch.full_like(part, next(calls)), torch.zeros(1, 1, 1, 1, 3), (1, 1, 2), (1, 1, 1)
    )
    assert found.flatten().tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    "window, stride, value", [((9, 8, 8), (4, 4, 4), "windows of 9"), ((4, 8, 8), (5, 4, 4), "every 5")]
)
def test_windows_that_do_not_cover_are_refused(window, stride, value):
    with pytest.raises(ValueError, match=value):
        sliding_window(lambda part: part, torch.zeros(1, 1, *SHAPE), window, stride)


def test_crops_are_of_one_place_in_all_three_and_follow_the_generator():
    volumes = make_volumes(2, SHAPE, seed=0).each(lambda part: part[:, :1])
    structure = torch.arange(volumes.structure.numel(), dtype=torch.float32).reshape(volumes.structure.shape)
    numbered = volumes.each(lambda part: structure)
    first, again = (cropped(numbered, (4, 8, 5), torch.Generator().manual_seed(1)) for _ in range(2))
    assert first.structure.shape == (2, 1, 4, 8, 5) and torch.equal(first.structure, again.structure)
    assert torch.equal(first.structure, first.flow) and torch.equal(first.structure, first.layers)
    assert torch.equal(first.structure[1] - first.structure[0], torch.full((1, 4, 8, 5), float(8 * 16 * 16)))


def test_one_window_of_the_whole_volume_measures_the_same():
    volumes, network = make_volumes(1, SHAPE, seed=0), translator(TranslationConfig(width=4, levels=2), 0)
    assert measured([network], volumes, window=SHAPE) == pytest.approx(measured([network], volumes))
    assert measured([network], volumes, window=(4, 8, 8)) != measured([network], volumes)


@pytest.mark.parametrize(
    "settings, shape, value",
    [
        ({}, (8, 18, 16), "shape.*multiples of 4.*18"),
        ({"window": (6, 8, 8)}, SHAPE, "window.*multiples of 4.*6"),
        ({"window": (8, 20, 8)}, SHAPE, r"fit into the shape \(8, 16, 16\).*20"),
        ({"levels": 2}, (4, 10, 12), "at least 11.*10"),
    ],
)
def test_shapes_that_cannot_be_divided_or_measured_are_refused(settings, shape, value):
    with pytest.raises(ValueError, match=value):
        TranslationConfig(**settings).check(shape)


@pytest.mark.parametrize("levels", [2, 3])
def test_the_network_keeps_shapes_and_range(levels):
    found = UNet3d(width=4, levels=levels)(noise(2, 1, *SHAPE))
    assert found.shape == (2, 1, *SHAPE) and found.abs().max() <= 1


@pytest.mark.parametrize("make", [lambda: UNet3d(width=6), lambda: UNet3d(width=4)(noise(1, 1, 8, 16, 18))])
def test_sizes_that_do_not_fit_are_refused(make):
    with pytest.raises(ValueError, match=r"multiple.* got .*(6|18)"):
        make()


def test_synthetic_volumes_follow_their_seed_and_hold_what_they_say():
    volumes, again = make_volumes(3, SHAPE, seed=1), make_volumes(3, SHAPE, seed=1)
    assert torch.equal(volumes.structure, again.structure)
    assert not torch.equal(volumes.structure, make_volumes(3, SHAPE, seed=2).structure)
    assert torch.equal(volumes.layers.sum(1), torch.ones(3, *SHAPE))
    outside = volumes.layers[:, :1] == 1
    assert (volumes.flow[outside] == -1).all() and volumes.flow.max() > 0.5


def test_a_training_cut_short_ends_with_the_same_weights():
    volumes = make_volumes(4, SHAPE, seed=0)
    config, states = TranslationConfig(epochs=3, width=4, levels=2, batch_size=2, window=(8, 8, 8)), []
    whole = train_translator(config, volumes, seed=0, save=states.append)
    resumed = train_translator(config, volumes, seed=0, resume=states[0])
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_training_halves_the_error_of_voxels():
    volumes, config = (
        make_volumes(8, SHAPE, seed=0),
        TranslationConfig(epochs=6, width=4, levels=2, batch_size=1, learning_rate=1e-2),
    )
    before = measured([translator(config, 0)], volumes)
    after = measured([train_translator(config, volumes, seed=0)], volumes)
    assert after["voxel_error"] < 0.5 * before["voxel_error"]
    assert after["psnr"] > before["psnr"]


def octa500(root, count=3, depth=20, scans=6, width=8):
    """Volumes in the layout of OCTA-500 whose layers and grey levels are known."""
    for number in range(10001, 10001 + count):
        for part, grey in (("OCT", 40), ("OCTA", 200)):
            folder = root / part / str(number)
            folder.mkdir(parents=True)
            for scan in range(1, scans + 1):
                Image.fromarray(np.full((depth, width), grey + scan, np.uint8)).save(folder / f"{scan}.bmp")
        surfaces = np.tile(np.array([2, 4, 8, 10, 12, 14])[:, None, None], (1, scans, width))
        (root / "GT_Layers").mkdir(exist_ok=True)
        savemat(root / "GT_Layers" / f"{number}.mat", {"Layer": surfaces})
    return root


def test_volumes_of_octa_500_are_read_as_they_lie(tmp_path):
    train, test = split_ids(octa500(tmp_path), 0.2)
    assert (train, test) == (["10001", "10002"], ["10003"])
    volumes = read_volumes(tmp_path, train, (20, 6, 8))
    assert volumes.layers.sum(2)[:, :, 0, 0].tolist() == [[8, 6, 6]] * 2
    torch.testing.assert_close(volumes.structure[0, 0, 0, :, 0], torch.arange(41, 47) / 127.5 - 1)
    torch.testing.assert_close(volumes.flow[1, 0, 5, :, 3], torch.arange(201, 207) / 127.5 - 1)
    assert read_volumes(tmp_path, test, (8, 4, 4)).flow.shape == (1, 1, 8, 4, 4)


@pytest.mark.parametrize("missing", ["OCT", "OCTA/10002", "GT_Layers/10001.mat"])
def test_volumes_that_are_not_whole_are_refused_by_name(tmp_path, missing):
    path = octa500(tmp_path) / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ValueError, match=missing.split("/")[-1]):
        split_ids(tmp_path, 0.2)


@pytest.mark.parametrize(
    "file, content, value",
    [
        ("GT_Layers/10001.mat", {"Surfaces": np.zeros((6, 6, 8))}, "Layer"),
        ("GT_Layers/10001.mat", {"Layer": np.zeros((3, 6, 8))}, r"\(3, 6, 8\)"),
        ("GT_Layers/10001.mat", {"Layer": np.full((6, 6, 8), np.nan)}, "finite"),
        ("GT_Layers/10001.mat", {"Layer": np.zeros((6, 5, 8))}, r"\(6, 5, 8\)"),
        ("GT_Layers/10001.mat", b"MATLAB 7.3 MAT-file" + bytes(200), "MATLAB"),
        ("OCT/10001/2.bmp", np.zeros((20, 9), np.uint8), r"one size, got \[\(20, 8\), \(20, 9\)\]"),
        ("OCTA/10001/2.bmp", b"", "2.bmp"),
    ],
)
def test_files_with_other_content_are_refused_by_name(tmp_path, file, content, value):
    path = octa500(tmp_path) / file
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        savemat(path, content)
    else:
        Image.fromarray(content).save(path)
    with pytest.raises(ValueError, match=value):
        read_volumes(tmp_path, ["10001"], (20, 6, 8))


def test_pictures_that_are_no_b_scans_are_left_out(tmp_path):
    folder = octa500(tmp_path) / "OCT" / "10001"
    before = read_volumes(tmp_path, ["10001"], (20, 6, 8))
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(folder / "preview.bmp")
    assert torch.equal(read_volumes(tmp_path, ["10001"], (20, 6, 8)).structure, before.structure)


def test_an_ensemble_is_no_worse_than_its_members_on_average():
    volumes, config = make_volumes(4, SHAPE, seed=0), TranslationConfig(width=4, levels=2)
    networks = [translator(config, seed) for seed in range(3)]
    alone = [measured([network], volumes)["voxel_error"] for network in networks]
    assert measured(networks, volumes)["voxel_error"] <= sum(alone) / 3 + 1e-6
