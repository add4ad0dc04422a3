"""Laws of features that are streamed from chunks."""

import pytest
import torch

from amalgam.tasks.sae.config import SAESpec, SAETrainConfig
from amalgam.tasks.sae.metrics import QualityMeter
from amalgam.tasks.sae.rules import TopK
from amalgam.tasks.sae.training.rows import Chunk, InMemory, Streamed
from amalgam.tasks.sae.training.train import mean_and_variance, train
from tests.tasks.sae.planted import ABOUT, planted

SIZES = (100, 1, 37, 100, 62, 200)


def streamed(x, sizes=SIZES, loaded=None, **settings):
    """Chunks of the given sizes that together are x; `loaded` receives the size of each one read."""

    def load(part):
        if loaded is not None:
            loaded.append(len(part))
        return part

    return Streamed([Chunk(len(part), lambda part=part: load(part)) for part in x.split(list(sizes))], 16, **settings)


def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("buffer_rows", [1, 150, 10_000])
@pytest.mark.parametrize("size", [1, 64, 1000])
def test_an_epoch_has_every_row_once_in_full_batches(buffer_rows, size):
    x = torch.arange(500.0)[:, None].expand(500, 16)
    batches = list(streamed(x, buffer_rows=buffer_rows).batches(size, generator(0)))
    assert [len(batch) for batch in batches] == [len(part) for part in x.split(size)]
    seen = torch.cat(batches)[:, 0]
    assert seen.sort().values.tolist() == list(range(500))
    other = torch.cat(list(streamed(x, buffer_rows=buffer_rows).batches(size, generator(1))))[:, 0]
    assert not torch.equal(seen, other) and not torch.equal(seen, seen.sort().values)


def test_no_more_rows_are_held_than_the_buffer_a_chunk_and_a_batch():
    loaded, given = [], 0
    for batch in streamed(torch.zeros(500, 16), loaded=loaded, buffer_rows=120).batches(30, generator(0)):
        assert sum(loaded) - given <= 120 + max(SIZES) + 30
        given += len(batch)
    assert given == sum(loaded) == 500


def test_a_batch_mixes_chunks():
    x = torch.arange(4).repeat_interleave(100)[:, None].expand(400, 16).float()
    first = next(streamed(x, (100,) * 4, buffer_rows=400).batches(64, generator(0)))
    assert first[:, 0].unique().numel() == 4


def test_streamed_features_train_what_a_tensor_trains():
    x, _ = planted(2048)
    rows = Streamed([Chunk(len(part), lambda part=part: part) for part in x.split(300)], 16, buffer_rows=700)
    (mean, variance), (mean_of_tensor, variance_of_tensor) = mean_and_variance(rows), mean_and_variance(x)
    torch.testing.assert_close(mean, mean_of_tensor)
    assert variance == pytest.approx(variance_of_tensor)
    found = []
    for features in (rows, x):
        config = SAETrainConfig(epochs=10, batch_size=256)
        (sae,) = train(features, ABOUT, [SAESpec(sparsity=TopK(k=2))], config, log=lambda m, e: None)
        meter = QualityMeter(sae)
        meter.update(x)
        found.append(meter.result().fvu)
    assert found[0] == pytest.approx(found[1], rel=0.1)


def test_a_chunk_of_another_shape_is_refused():
    wrong = Streamed([Chunk(5, lambda: torch.zeros(4, 16))], 16)
    with pytest.raises(ValueError, match=r"5 rows .*4, 16"):
        next(wrong.batches(2, generator(0)))
    with pytest.raises(ValueError, match="not empty"):
        InMemory(torch.zeros(0, 16))
