"""The page and tables of an explanation say what the classifiers themselves say."""

import json
import math
import re

import pyarrow.parquet as pq
import pytest
import torch

from amalgam.pipeline.engine.data_digests import check_data
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.steps.clip.explanation import ExplainConfig, explain
from amalgam.pipeline.store.clip_checkpoints import load_classifier, read_sae
from amalgam.pipeline.store.tables.results import read_results
from amalgam.tasks.clip.toy.named import WORLDS
from amalgam.tasks.data.loading import batches
from amalgam.tasks.data.opening import open_source
from amalgam.tasks.data.sources import Stored
from amalgam.tasks.explain.vocabulary import Truth, concepts_in, concepts_of
from amalgam.tasks.sae.autoencoder import unit_norm
from amalgam.tasks.scoring.results import flat
from tests.pipeline.steps.explained import write_folders

pytestmark = pytest.mark.usefixtures("one_thread")

WORLD, STYLES, NUM_IMAGES = WORLDS["digits"], ("plain", "bold"), 60
CAPTIONS = WORLD.captions
SOURCES = tuple((style, WORLD.source("test", NUM_IMAGES, style)) for style in STYLES)
CONFIG = ExplainConfig(
    sources=SOURCES,
    concepts=(*concepts_in(WORLD.class_names, CAPTIONS.class_words), *concepts_of(CAPTIONS.style_words.values())),
    truth=Truth(
        of_class=tuple(tuple(dict.fromkeys(name.split())) for name in WORLD.class_names),
        of_domain=tuple((CAPTIONS.style_words[style],) for style in STYLES),
    ),
    top_n=3,
    title="What <b>changed</b>",
    batch_size=25,
)


def run(config, inputs, place):
    work = Workspace(place / "out", place / "scratch", None, "cpu", place / "curves")
    work.out.mkdir(parents=True)
    return explain(config, inputs, work), work.out


def pictures():
    sets = [open_source(source) for _, source in SOURCES]
    found = [next(batches(each, range(NUM_IMAGES), NUM_IMAGES)) for each in sets]
    return torch.cat([batch.images for batch in found]), torch.cat([batch.labels for batch in found])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("networks")
    return write_folders(place, WORLD.clip, WORLD.class_names, CAPTIONS.class_templates(), pictures()[0])


@pytest.fixture(scope="module")
def told(folders, tmp_path_factory):
    metrics, out = run(CONFIG, folders, tmp_path_factory.mktemp("told"))
    return metrics, out


@pytest.fixture(scope="module")
@torch.no_grad()
def truth(folders):
    """Logits of both classifiers on all images in order, and the true classes."""
    images, labels = pictures()
    return [load_classifier(folders[name])(images) for name in ("before", "after")], labels


def test_flips_are_the_predictions_that_changed_and_their_parts_add_up(told, truth):
    (before, after), labels = truth
    rows = pq.read_table(told[1] / "flips.parquet").to_pylist()
    old, new = before.argmax(1), after.argmax(1)
    flipped = (old != new).nonzero().flatten().tolist()
    assert len(flipped) > 10
    found = [(STYLES.index(row["domain"]) * NUM_IMAGES + row["example_id"]) for row in rows]
    assert found == flipped
    for place, row in zip(found, rows, strict=True):
        assert (row["label"], row["before"], row["after"]) == (labels[place], old[place], new[place])
        assert row["rise"] == pytest.approx(row["latents"] + row["error"] + row["head"], abs=1e-9)
        margin = before[place, row["after"]] - before[place, row["before"]]
        rise = after[place, row["after"]] - after[place, row["before"]] - margin
        assert row["rise"] == pytest.approx(rise.item(), abs=1e-4)
    assert told[0]["flips/right to wrong"] == ((old == labels) & (new != labels)).sum()


def test_the_headline_is_the_classifiers_own_accuracy(told, truth):
    (before, after), labels = truth
    metrics, out = told
    assert metrics["accuracy/before"] == pytest.approx((before.argmax(1) == labels).double().mean().item())
    assert metrics["accuracy/after"] == pytest.approx((after.argmax(1) == labels).double().mean().item())
    assert sum(metrics[f"share/{part}"] for part in ("latents", "error", "head")) == pytest.approx(1)
    short = json.loads((out / "explanation.json").read_text())
    change = (after - before).gather(1, labels[:, None]).mean().item()
    assert short["true_class_logit"]["change"]["all"] == pytest.approx(change, abs=1e-4)
    assert short["images"] == dict.fromkeys(STYLES, NUM_IMAGES)
    assert short["summary"] == {name: value for name, value in metrics.items() if not name.startswith("set/")}
    assert metrics == flat(read_results(out))
    by_style = zip(STYLES, (before.argmax(1) == labels).double().split(NUM_IMAGES), strict=True)
    for style, hits in by_style:
        assert metrics[f"set/{style}/accuracy_before"] == pytest.approx(hits.mean().item())


@torch.no_grad()
def test_tables_have_the_codes_of_the_autoencoder(told, folders):
    sae, images = read_sae(folders["sae"]), pictures()[0]
    codes = {
        model: sae.encode(unit_norm(load_classifier(folders[model]).encoder(images))).dense()
        for model in ("before", "after")
    }
    for row in pq.read_table(told[1] / "latents.parquet").to_pylist():
        activations = codes[row["model"]][:, row["latent"]]
        assert row["firing_rate"] == pytest.approx((activations != 0).double().mean().item())
        places = zip(row["top_domains"], row["top_ids"], row["top_activations"], strict=True)
        for domain, number, value in places:
            assert value == pytest.approx(activations[STYLES.index(domain) * NUM_IMAGES + number].item(), abs=1e-5)
        assert len(row["top_ids"]) == min(3, (activations != 0).sum())
    fired = {model: code != 0 for model, code in codes.items()}
    rows = pq.read_table(told[1] / "changes.parquet").to_pylist()
    assert {row["scope"] for row in rows} == {"all", "class", "domain"}
    for row in rows:
        if row["scope"] == "all":
            added = (fired["after"] & ~fired["before"])[:, row["latent"]].sum()
            assert row["added"] == added and 0 <= row["p"] <= row["q"] <= 1
            assert row["clamped_to_zero_p"] is not None


def test_the_page_is_one_file_that_fetches_nothing_and_shows_images(told):
    page = (told[1] / "explanation.html").read_text()
    assert "What &lt;b&gt;changed&lt;/b&gt;" in page and "<b>changed" not in page
    outside = re.findall(r'(?:src|href)="([^"]*)"', re.sub(r"<script.*?</script>", "", page, flags=re.S))
    assert all(place.startswith("data:image/") for place in outside)
    assert not re.search(r"https?://|@import|\bfetch\(|\bimport\b", page.replace("http://www.w3.org/2000/svg", ""))
    assert page.count("data:image/svg+xml;base64,") == 1 and page.count("data:image/png;base64,") > 10
    metrics = told[0]
    assert ("are anecdotes" in page) == (metrics["share/error"] >= metrics["share/latents"])
    assert ("less than the 60%" in page) == (metrics["flips/explained"] < 0.6)
    assert f"on {2 * NUM_IMAGES} images" in page and "Are the names correct?" in page


def data_of(out):
    page = (out / "explanation.html").read_text()
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])


def rounded_alike(shown, stored):
    if isinstance(stored, list):
        return len(shown) == len(stored) and all(map(rounded_alike, shown, stored))
    if isinstance(stored, float):
        return shown is None if math.isnan(stored) else shown == pytest.approx(stored, rel=1e-3)
    return shown == stored


@pytest.mark.parametrize("name", ["cards", "pictures"])
def test_the_page_shows_what_the_tables_beside_it_hold(told, name):
    data, table = data_of(told[1])[name], pq.read_table(told[1] / f"{name}.parquet").to_pydict()
    assert data.keys() == table.keys() and len(table["latent"]) > 10
    assert all(rounded_alike(data[column], table[column]) for column in table)


def original(table):
    return [row for row in pq.read_table(table).to_pylist() if row["dictionary"] == "original"]


@torch.no_grad()
def test_cards_hold_what_the_networks_say(told, folders, truth):
    (before, after), labels = truth
    sae, images = read_sae(folders["sae"]), pictures()[0]
    codes = [
        sae.encode(unit_norm(load_classifier(folders[side]).encoder(images))).dense() for side in ("before", "after")
    ]
    names = WORLD.class_names
    for row in original(told[1] / "pictures.parquet"):
        place = STYLES.index(row["domain"]) * NUM_IMAGES + row["image"]
        assert row["value_after"] == pytest.approx(codes[1][place, row["latent"]].item(), abs=1e-5)
        assert row["label"] == names[labels[place]]
        assert row["predicted_before"] == names[before[place].argmax()]
        assert row["predicted_after"] == names[after[place].argmax()]
    for card in original(told[1] / "cards.parquet"):
        activations = [side[:, card["latent"]] for side in codes]
        for side, values in zip(("before", "after"), activations, strict=True):
            assert card[f"rate_{side}"] == pytest.approx((values != 0).double().mean().item())
            assert sum(card[f"histogram_{side}"]) == (values > 0).sum()
        assert card["clamped_to_zero_low"] <= card["clamped_to_zero"] <= card["clamped_to_zero_high"]


def test_equal_networks_have_no_explanation(folders, tmp_path):
    same = folders | {"after": folders["before"]}
    metrics, out = run(CONFIG.model_copy(update={"concepts": (), "truth": None, "new_latents": False}), same, tmp_path)
    assert metrics["latents/changed"] == metrics["flips/right to wrong"] == metrics["share/latents"] == 0
    assert not len(pq.read_table(out / "changes.parquet")) and not len(pq.read_table(out / "flips.parquet"))
    assert "No prediction changed." in (out / "explanation.html").read_text()


def test_what_does_not_fit_is_refused(folders, tmp_path):
    digits = Stored(data=WORLD.glyphs)
    with pytest.raises(ValueError, match=r"'digits' .*\(1, 8, 8\), .*\(3, 20, 20\)"):
        run(ExplainConfig(sources=(("digits", digits),)), folders, tmp_path / "one")
    with pytest.raises(ValueError, match="backbone"):
        run(CONFIG, {name: path for name, path in folders.items() if name != "backbone"}, tmp_path / "two")
    with pytest.raises(ValueError, match=r" 1 .*100"):
        short = CONFIG.model_copy(update={"truth": Truth(of_class=(("one",),))})
        run(short, folders, tmp_path / "three")
    with pytest.raises(ValueError, match="'plain'"):
        ExplainConfig(sources=(SOURCES[0], SOURCES[0]))
    absent = ExplainConfig(sources=(("mnist", Stored(data={"name": "mnist"})),))
    with pytest.raises(ValueError, match="'mnist'"):
        check_data(absent, None)
