"""`amalgam merge`: files in, files out, the same as the library, and every bad input one sentence."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from amalgam import EpiMer, Fisher, Statistics, Ties, merge
from amalgam.pipeline.__main__ import main
from amalgam.pipeline.reports.builder import read_rows
from amalgam.pipeline.store.state_files import INDEX, open_state
from amalgam.pipeline.store.tables.statistics import read_statistics, write_statistics
from amalgam.tasks.merging.staged import digest
from amalgam.tasks.merging.statistics.conflict import conflicts
from tests.tasks.merging.families import family, statistics_of


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """Base and members in memory, and the same in files of the current folder."""
    monkeypatch.chdir(tmp_path)
    base, members = family(2, dtype=torch.float32)
    for name, state in (("base", base), ("a", members[0]), ("b", members[1])):
        save_file(state, tmp_path / f"{name}.safetensors")
    return base, members


def command(*arguments):
    """The exit code."""
    try:
        main(["merge", *arguments, "--out", "out"])
    except SystemExit as end:
        return end.code or 0
    return 0


FILES = ("base.safetensors", "a.safetensors", "b.safetensors")


def equal(one, other):
    assert set(one) == set(other)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)


def test_files_are_merged_as_the_library_merges(nets, tmp_path):
    assert command(*FILES, "--method", "ties", "--density", "0.5", "--scale", "0.7") == 0
    equal(load_file(tmp_path / "out" / "model.safetensors"), merge(*nets, Ties(density=0.5, scale=0.7)))
    origin = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert origin["method"] == {"class": "Ties", "density": 0.5, "scale": 0.7}


def test_weights_are_numbers_with_commas_and_a_base_may_be_left_out(nets, tmp_path):
    assert command(*FILES[1:], "--no-base", "--method", "average", "--weights", "0.25,0.75") == 0
    merged = load_file(tmp_path / "out" / "model.safetensors")
    a, b = (member["linear.weight"] for member in nets[1])
    torch.testing.assert_close(merged["linear.weight"], 0.25 * a + 0.75 * b)


def test_staged_statistics_give_the_merge_of_those_in_memory(nets, tmp_path):
    base, members = nets
    known = statistics_of(members)
    known = Statistics(
        fisher=tuple({n: f.float() for n, f in one.items()} for one in known.fisher),
        models=tuple(map(digest, members)),
    )
    write_statistics(tmp_path, known, data="digits")
    for method in (Fisher(), EpiMer(rank=2)):
        equal(merge(base, members, method, read_statistics(tmp_path)), merge(base, members, method, known))
    assert command(*FILES, "--method", "epimer", "--rank", "2", "--statistics", str(tmp_path)) == 0
    equal(load_file(tmp_path / "out" / "model.safetensors"), merge(base, members, EpiMer(rank=2), known))
    with pytest.raises(ValueError, match="other data"):
        read_statistics(tmp_path, data="cifar10")


def test_shards_come_out_as_they_went_in(nets, tmp_path):
    _, members = nets
    for place, member in enumerate(members):
        folder = tmp_path / f"shards{place}"
        folder.mkdir()
        names = sorted(member)
        parts = {"model-1.safetensors": names[:4], "model-2.safetensors": names[4:]}
        for file, held in parts.items():
            save_file({name: member[name] for name in held}, folder / file)
        index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
        (folder / INDEX).write_text(json.dumps(index))
        (folder / "config.json").write_text("{}")
    assert command("base.safetensors", "shards0", "shards1", "--method", "ties") == 0
    equal(dict(open_state(tmp_path / "out")), merge(*nets, Ties()))
    assert {p.name for p in (tmp_path / "out").iterdir()} == {*parts, INDEX, "config.json", "merge.json"}
    (tmp_path / "shards1" / "model-2.safetensors").unlink()
    with pytest.raises(ValueError, match="model-2"):
        open_state(tmp_path / "shards1")


def adapter(folder, rank, alpha, seed):
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    prefix = "base_model.model.q_proj.lora_"
    state = {
        prefix + "A.weight": torch.randn(rank, 6, generator=generator),
        prefix + "B.weight": torch.randn(5, rank, generator=generator),
    }
    save_file(state, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank, "lora_alpha": alpha}))
    return alpha / rank * state[prefix + "B.weight"] @ state[prefix + "A.weight"]


def test_adapters_are_merged_as_products(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, other = adapter(tmp_path / "a", 2, 4, 0), adapter(tmp_path / "b", 2, 4, 1)
    assert command("a", "b", "--method", "average", "--adapter-rank", "4") == 0
    state = load_file(tmp_path / "out" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    a, b = (state[f"base_model.model.q_proj.lora_{factor}.weight"] for factor in "AB")
    torch.testing.assert_close(config["lora_alpha"] / config["r"] * b @ a, (one + other) / 2)


def bad(nets, tmp_path, kind):
    """Write one bad input; the arguments that lead to it."""
    _, members = nets
    changed = dict(members[1])
    if kind == "keys":
        for name in list(changed)[:5]:
            del changed[name]
    elif kind == "shape":
        changed["head.weight"] = torch.zeros(2, 2)
    elif kind == "dtype":
        changed["head.weight"] = changed["head.weight"].half()
    elif kind == "nan":
        changed["logit_scale"] = torch.tensor(float("nan"))
    save_file(changed, tmp_path / "b.safetensors")
    if kind == "cut":
        file = tmp_path / "b.safetensors"
        file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize("kind", ["keys", "shape", "dtype", "nan", "cut"])
def test_bad_files_are_one_sentence_and_leave_nothing(nets, tmp_path, capsys, kind):
    bad(nets, tmp_path, kind)
    before = sorted(tmp_path.iterdir())
    assert command(*FILES, "--method", "ties") == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((*FILES, "--method", "tise"), "Ties"),
        ((*FILES, "--method", "ties", "--rank", "3"), "--density"),
        ((*FILES, "--method", "ties", "--density", "2"), "density"),
        ((*FILES, "--method", "fisher"), "statistics"),
        ((*FILES, "--method", "slerp", "--t", "nan"), "t must"),
        ((*FILES[1:], "--no-base", "--method", "ties"), "base"),
        ((*FILES, "--method", "average", "--weights", "0.5,0.6"), "sum to 1"),
        ((*FILES, "--method", "average", "--weights", "1"), "one weight per member"),
        ((FILES[0], "--method", "average"), "members"),
        ((*FILES, "missing.safetensors", "--method", "average"), "missing.safetensors"),
        ((*FILES, "--method", "GreedySoup"), "multi_task_merging"),
        ((*FILES, "--method", "ties", "--statistics", "nowhere"), "no statistics"),
        ((*FILES, "--method", "ties", "--space", "factors"), "LoRA"),
    ],
)
def test_bad_requests_are_one_sentence_and_leave_nothing(nets, tmp_path, capsys, arguments, match):
    assert command(*arguments) == 2
    error = capsys.readouterr().err.strip()
    assert match in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_adapters_of_other_ranks_and_scales_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    adapter(tmp_path / "a", 2, 4, 0), adapter(tmp_path / "b", 3, 6, 1), adapter(tmp_path / "c", 2, 8, 1)
    for other, word in (("b", "rank 3"), ("c", "scaling")):
        for space in ("product", "factors"):
            assert command("a", other, "--method", "average", "--space", space) == 2
            assert word in capsys.readouterr().err


def test_statistics_of_other_weights_are_refused(nets, tmp_path, capsys):
    strangers = family(2, seed=5, dtype=torch.float32)[1]
    known = Statistics(fisher=statistics_of(strangers).fisher, models=tuple(map(digest, strangers)))
    write_statistics(tmp_path, known)
    assert command(*FILES, "--method", "fisher", "--statistics", str(tmp_path)) == 2
    assert "other weights" in capsys.readouterr().err


def test_conflicts_are_written_by_tensor_and_the_worst_are_named(nets, tmp_path, capsys):
    assert command(*FILES, "--method", "average", "--conflicts") == 0
    rows = {row["label"]: row for row in read_rows(tmp_path / "out", "conflicts")}
    expected = dict(conflicts(*nets))
    assert rows.keys() == expected.keys()
    assert all(rows[name]["cosine"] == one.cosine for name, one in expected.items())
    worst = min(expected, key=lambda name: expected[name].cosine)
    assert f"{worst}: {expected[worst].sign_agreement:.0%}" in capsys.readouterr().out


def test_conflicts_without_a_base_are_refused(nets, tmp_path, capsys):
    assert command(*FILES[1:], "--no-base", "--method", "average", "--conflicts") == 2
    assert "give the base" in capsys.readouterr().err and not (tmp_path / "out").exists()
