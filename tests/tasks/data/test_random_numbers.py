"""Numbers that belong to an example: of the published generator, uniform, and blind to batch and order."""

import torch

from amalgam.tasks.data.random_numbers import RandomNumbers, normals, uniforms

IDS = torch.arange(20_000)


def splitmix64(state):
    """The published generator with Python's integers: its next output."""
    mask = (1 << 64) - 1
    state = (state + 0x9E3779B97F4A7C15) & mask
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
    return state ^ (state >> 31)


def test_a_number_is_a_hash_of_id_seed_and_stream_by_the_published_generator():
    assert splitmix64(0) == 0xE220A8397B1DCDAF  # the first output of seed 0, in Vigna's reference
    seed, stream, image = 2**63 + 5, 3, 12_345
    start = splitmix64(splitmix64(splitmix64(seed) ^ stream) ^ image)
    expected = [(splitmix64(start + step * 0x9E3779B97F4A7C15) >> 40) / 2**24 for step in (1, 2)]
    assert uniforms(torch.tensor([0, image]), seed, 2, stream)[1].tolist() == expected


def test_numbers_do_not_depend_on_batch_order_or_count():
    whole = uniforms(IDS, 1, 5, 2)
    some = torch.tensor([7, 3, 7, 19_999])
    assert torch.equal(uniforms(some, 1, 3, 2), whole[some, :3])


def test_numbers_are_uniform_and_unrelated():
    columns = torch.cat([uniforms(IDS, seed, 2, stream) for seed, stream in ((0, 0), (1, 0), (0, 1))], 1).double()
    assert columns.min() >= 0 and columns.max() < 1
    error = 4 * (1 / 12 / len(IDS)) ** 0.5  # four standard errors of a mean
    assert (columns.mean(0) - 0.5).abs().max() < error
    relation = torch.corrcoef(columns.T) - torch.eye(6)
    assert relation.abs().max() < 4 / len(IDS) ** 0.5


def test_normals_are_normal_and_do_not_depend_on_batch_or_count():
    whole = normals(IDS, 3, 4)
    assert torch.equal(normals(IDS[5:7], 3, 3), whole[5:7, :3])
    quantiles = torch.tensor([0.001, 0.1, 0.5, 0.9, 0.999], dtype=torch.float64)
    expected = torch.distributions.Normal(0.0, 1.0).cdf(whole.double().flatten().quantile(quantiles))
    error = 4 * (quantiles * (1 - quantiles) / whole.numel()).sqrt()  # four standard errors of a quantile's level
    assert ((expected - quantiles).abs() < error).all()
    assert (torch.corrcoef(whole.T) - torch.eye(4)).abs().max() < 4 / len(IDS) ** 0.5


def test_purposes_and_parts_draw_numbers_of_their_own():
    rows = [RandomNumbers(IDS, 0, purpose).uniforms(1, part)[:, 0] for purpose in (0, 1) for part in (0, 15)]
    assert (torch.corrcoef(torch.stack(rows)) - torch.eye(4)).abs().max() < 4 / len(IDS) ** 0.5
