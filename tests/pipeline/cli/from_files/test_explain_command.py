"""`amalgam explain` as a user meets it, on a folder of pictures."""

import gzip
import json
import shutil

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from amalgam.pipeline.cli.from_files.explain_folders import in_order
from amalgam.pipeline.store.clip_checkpoints import load_classifier, open_sae, read_about, save_classifier, save_sae
from amalgam.tasks.clip.zero_shot import Classifier, zero_shot_head
from amalgam.tasks.data.pixels import enlarged, in_memory
from amalgam.tasks.sae.autoencoder import initial, unit_norm
from amalgam.tasks.sae.config import SAETrainConfig
from tests.pipeline.cli.test_command_line import amalgam
from tests.pipeline.steps.explained import write_folders
from tests.tasks.clip.worlds import CLASSES, images, spec, tiny_clip, write_pictures

pytestmark = pytest.mark.usefixtures("one_thread")

TEMPLATES = ("a photo of the digit {}",)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folders of networks, and pictures whose classes are in another order on disk than in the classifier."""
    place = tmp_path_factory.mktemp("explain")
    write_folders(place, spec(), CLASSES, TEMPLATES, images(32))
    write_pictures(place / "photos", CLASSES, count=6)
    return place


def flags(place, **changed):
    given = {"sae": place / "sae", "data": f"imagefolder:{place / 'photos'}", "out": place / "out"} | changed
    pairs = [(f"--{name}", value) for name, value in given.items() if value is not None]
    return [*(part for pair in pairs for part in pair), "--no-new-latents"]


def test_a_page_is_written_and_its_sentences_are_printed(place, capsys):
    words = ("--backbone", place / "backbone", "--words", "zero,bold, thin", "--top", "4")
    assert amalgam("explain", place / "before", place / "after", *flags(place), *words) == 0
    said = capsys.readouterr().out
    out = place / "out"
    assert "on 24 images" in said and said.splitlines()[-1] == f"page: {out / 'explanation.html'}"
    written = {path.name for path in out.iterdir()}
    assert written == {
        "explanation.html",
        "explanation.json",
        "latents.parquet",
        "cards.parquet",
        "pictures.parquet",
        "labels.csv",
        "changes.parquet",
        "flips.parquet",
    }
    assert json.loads((out / "explanation.json").read_text())["images"] == {f"imagefolder:{place / 'photos'}": 24}


def test_what_was_found_is_exported_for_neuronpedia_and_saelens(place):
    explained = place / "explained"
    words = ("--backbone", place / "backbone", "--words", "zero,bold, thin", "--top", "4")
    assert amalgam("explain", place / "before", place / "after", *flags(place, out=explained), *words) == 0
    to = ("--explanation", explained, "--model-id", "tiny-clip", "--source-id", "0-digits")
    assert amalgam("sae", "export", place / "sae", *to, "--out", place / "exported") == 0
    rows = pq.read_table(explained / "latents.parquet").to_pylist()
    alive = {row["latent"]: row for row in rows if row["model"] == "before" and row["firing_rate"] > 0}
    folder = place / "exported/neuronpedia/tiny-clip/0-digits"
    found = {
        kind: [
            json.loads(line) for line in gzip.decompress((folder / kind / "batch-0.jsonl.gz").read_bytes()).splitlines()
        ]
        for kind in ("features", "activations", "explanations")
    }
    assert [int(one["index"]) for one in found["features"]] == sorted(alive)
    for one in found["features"]:
        row = alive[int(one["index"])]
        assert one["frac_nonzero"] == row["firing_rate"] and one["maxActApprox"] == row["top_activations"][0]
        assert sum(one["freq_hist_data_bar_heights"]) == round(24 * row["firing_rate"])
        strongest = [a["maxValue"] for a in found["activations"] if a["index"] == one["index"]]
        assert strongest == row["top_activations"]
    named = {int(one["index"]): one["description"] for one in found["explanations"]}
    assert named == {latent: row["name"] for latent, row in alive.items() if row["name"]}
    features = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    exported, sae = open_sae(place / "exported"), open_sae(place / "sae")
    unit = unit_norm(features[:, : sae.info.width])
    torch.testing.assert_close(exported(unit), sae(unit))
    assert exported.info.origin["neuronpedia_id"] == "tiny-clip/0-digits"
    assert amalgam("sae", "export", place / "sae", *to, "--source-id", "../up", "--out", place / "other") == 2
    save_sae(initial(sae.info, SAETrainConfig(), torch.zeros(sae.info.width), seed=5), place / "second")
    assert amalgam("sae", "export", place / "second", *to, "--out", place / "other") == 2
    assert not (place / "other").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sae": "before"}, "there is no sparse autoencoder at"),
        ({"data": "imagefolder:nowhere"}, "image folder nowhere has no train folder"),
        ({"data": "digitz"}, "did you mean 'digits'?"),
        ({"data": "digits"}, "mean must be one number or one for each of 1 channels"),
        ({"words": "zero,one"}, "words need a text tower: give --backbone"),
        ({"words": "zero,,one", "backbone": "backbone"}, "class 1 has an empty name"),
        ({"words": "elephant,one", "backbone": "backbone"}, "the word 'elephant' is not in the vocabulary"),
        ({"words": "one", "backbone": "backbone"}, "'one'"),
        ({"template": "the digit", "backbone": "backbone"}, "has no slot {}"),
        ({"out": "before"}, "exists already"),
        ({"name-error": "1.5"}, "--name-error must be between 0 and 1, got 1.5"),
        ({"labels": "nowhere.csv"}, "must be a table with the columns latent, label"),
        ({"device": "gpu"}, "torch cannot compute on device 'gpu'"),
        ({"after": "backbone"}, "it has no classifier.json"),
        ({"after": "foreign"}, "differ in backbone"),
    ],
)
def test_a_user_error_is_one_sentence_exit_code_2_and_leaves_nothing(place, changed, message, capsys, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(place, mine, ignore=shutil.ignore_patterns("out", "photos"))
    (mine / "foreign").mkdir()
    other = tiny_clip(seed=9)
    about = read_about(mine / "before").model_copy(update={"backbone": "0123456789abcdef"})
    save_classifier(Classifier(other.image_tower, zero_shot_head(other, CLASSES, TEMPLATES)), about, mine / "foreign")
    there = sorted(path.name for path in mine.iterdir())
    changed = {name: mine / value if (mine / value).exists() else value for name, value in changed.items()}
    after = changed.pop("after", mine / "after")
    given = flags(place, **{"sae": mine / "sae", "out": mine / "out"} | changed)
    assert amalgam("explain", mine / "before", after, *given) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1
    assert sorted(path.name for path in mine.iterdir()) == there


def test_labels_survive_another_explanation(place, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    assert amalgam("explain", place / "before", place / "after", *flags(place, out=first)) == 0
    key = pq.read_schema(first / "latents.parquet").metadata[b"autoencoder"].decode()
    assert (first / "labels.csv").read_text() == "autoencoder,latent,label\n"
    latent = pq.read_table(first / "cards.parquet")["latent"][0].as_py()
    mine = tmp_path / "mine.csv"
    labels = ("--labels", mine)
    mine.write_text(f'latent,label\n{latent},"stripes, <b>"\n')
    assert amalgam("explain", place / "before", place / "after", *flags(place, out=second), *labels) == 0
    assert (second / "labels.csv").read_text() == f'autoencoder,latent,label\n{key},{latent},"stripes, <b>"\n'
    cards = pq.read_table(second / "cards.parquet").to_pylist()
    assert next(card["label"] for card in cards if card["latent"] == latent) == "stripes, <b>"
    assert "stripes, \\u003cb>" in (second / "explanation.html").read_text()
    mine.write_text(f"autoencoder,latent,label\n0123,{latent},x\n")
    capsys.readouterr()
    assert amalgam("explain", place / "before", place / "after", *flags(place, out=tmp_path / "z"), *labels) == 2
    assert "labels latents of autoencoder 0123" in capsys.readouterr().err


def test_domains_are_distinguished_by_name(place, capsys):
    twice = ("--data", f"imagefolder:{place / 'photos'}")
    assert amalgam("explain", place / "before", place / "after", *flags(place, out=place / "x"), *twice) == 2
    assert "appears twice" in capsys.readouterr().err
    named = ("--data", f"again=imagefolder:{place / 'photos'}")
    assert amalgam("explain", place / "before", place / "after", *flags(place, out=place / "y"), *named) == 0
    found = json.loads((place / "y" / "explanation.json").read_text())
    assert found["accuracy"]["before"]["again"] == found["accuracy"]["before"]["all"]


def test_classes_of_the_same_names_are_put_in_the_classifiers_order():
    pictures = in_memory(torch.zeros(3, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1, 2]), ("b", "c", "a"))
    for stored in (pictures, enlarged(pictures, 8)):
        assert in_order(stored, ("a", "b", "c")).labels.tolist() == [1, 2, 0]
    assert in_order(pictures, ("x", "y", "z")) is pictures
    written = in_memory(pictures.pixels, pictures.labels, ("b_b", "c", "a"))
    assert in_order(written, ("a", "b b", "c")).labels.tolist() == [1, 2, 0]


def test_several_networks_are_explained_side_by_side(place, tmp_path, capsys):
    out, weak = tmp_path / "out", tmp_path / "weak"
    weak.mkdir()
    states = [load_classifier(place / side) for side in ("before", "after")]
    with torch.no_grad():
        for ours, theirs in zip(states[1].parameters(), states[0].parameters(), strict=True):
            ours.lerp_(theirs, 0.5)
    save_classifier(states[1], read_about(place / "after"), weak)
    assert amalgam("explain", place / "before", place / "after", weak, *flags(place, out=out)) == 0
    assert {path.name for path in out.iterdir()} == {"after", "weak", "explanation.html", "cards.parquet"}
    cards = pd.read_parquet(out / "cards.parquet").set_index("network")
    for name in ("after", "weak"):
        own = pd.read_parquet(out / name / "cards.parquet")
        pd.testing.assert_frame_equal(cards.loc[name].reset_index(drop=True), own)
    page = (out / "explanation.html").read_text()
    assert 'href="weak/explanation.html"' in page and "weak: Accuracy went" in capsys.readouterr().out
    twice = (place / "after", place / "after")
    assert amalgam("explain", place / "before", *twice, *flags(place, out=tmp_path / "z")) == 2
    assert "folders called 'after'" in capsys.readouterr().err and not (tmp_path / "z").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["average", "ties"])
def test_what_a_merge_lost_and_gained_is_explained_against_its_base(place, tmp_path, method):
    other = load_classifier(place / "after")
    with torch.no_grad():
        [p.add_(0.1 * p.std(correction=0)) for p in other.parameters() if p.numel() > 1]
    (tmp_path / "other").mkdir()
    save_classifier(other, read_about(place / "after"), tmp_path / "other")
    members = (place / "after", tmp_path / "other")
    assert amalgam("merge", place / "before", *members, "--method", method, "--out", tmp_path / "merged") == 0
    assert amalgam("explain", place / "before", tmp_path / "merged", *flags(place, out=tmp_path / "page")) == 0
    found = json.loads((tmp_path / "page" / "explanation.json").read_text())
    assert set(found["images"].values()) == {24}
