"""Encoders come from open_clip as it makes them, from this machine or not at all."""

import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from amalgam.tasks.models.clip import build_clip, require_weights
from amalgam.tasks.models.clip_files.prompts import imagenet_classes, openai_templates
from amalgam.tasks.models.clip_spec import ClipSpec, Preprocessing
from tests.tasks.clip.worlds import ARCHITECTURE, images, spec, tiny_clip

PAIRS = {**ARCHITECTURE, "text_cfg": {**ARCHITECTURE["text_cfg"], "vocab_size": 49408}}


@pytest.fixture
def tiny_name(tmp_path, monkeypatch):
    """A small architecture that open_clip knows by name, with an "openai" tag whose files lie in `tmp_path`."""
    (tmp_path / "Tiny-32.json").write_text(json.dumps(PAIRS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    open_clip.add_model_config(tmp_path / "Tiny-32.json")
    tag = open_clip.pretrained._pcfg(hf_hub="someone/tiny/", quick_gelu=True, std=(0.5, 0.5, 0.5))
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Tiny-32", {"openai": tag})
    return "Tiny-32"


def fetch(root, state) -> None:
    """What the hub's client leaves behind after a download."""
    snapshot = root / "models--someone--tiny" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    save_file(state, snapshot / "open_clip_model.safetensors")
    (root / "models--someone--tiny" / "refs").mkdir()
    (root / "models--someone--tiny" / "refs" / "main").write_text("0" * 40)


def test_a_named_architecture_computes_what_open_clip_computes(tiny_name, tmp_path):
    ours = build_clip(ClipSpec(architecture=tiny_name))
    theirs = open_clip.create_model(tiny_name)
    theirs.load_state_dict(ours.model.state_dict())
    torch.testing.assert_close(ours.encode_image(images()), theirs.eval().encode_image(images()))
    tokens = open_clip.get_tokenizer(tiny_name)(["a photo of a cat"])
    torch.testing.assert_close(ours.encode_text(["a photo of a cat"]), theirs.encode_text(tokens).detach())


def test_fetched_openai_weights_get_their_quick_gelu_form(tiny_name, tmp_path):
    source = build_clip(ClipSpec(architecture={**PAIRS, "quick_gelu": True}, seed=3))
    fetch(tmp_path, source.model.state_dict())
    loaded = build_clip(ClipSpec(architecture=tiny_name, pretrained="openai"), tmp_path)
    torch.testing.assert_close(loaded.encode_image(images()), source.encode_image(images()))
    assert loaded.preprocessing.std == (0.5, 0.5, 0.5) and loaded.preprocessing.size == (16, 16)


def test_weights_that_are_not_here_are_named_with_the_command_that_fetches_them(tmp_path):
    with pytest.raises(ValueError, match="not on this machine") as error:
        build_clip(ClipSpec(architecture="ViT-B-16", pretrained="openai"), tmp_path)
    assert "open_clip.create_model" in str(error.value) and str(tmp_path) in str(error.value)
    with pytest.raises(ValueError, match="not on this machine") as plan:
        require_weights(ClipSpec(architecture="ViT-B-16", pretrained="openai"), tmp_path)
    assert str(plan.value) == str(error.value)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "ViT-B16"}, "did you mean 'ViT-B-16'"),
        ({"architecture": "ViT-B-16", "pretrained": "opennai"}, "did you mean 'openai'"),
        ({"architecture": "roberta-ViT-B-32"}, "text tower roberta-base .* not on this machine"),
        ({"architecture": {**ARCHITECTURE, "vision_cfg": {"layer": 2}}}, "did you mean 'layers'"),
        ({"architecture": ARCHITECTURE | {"text_cfg": {"vocab_size": 9}}}, "tokenizer has 49408 tokens"),
        ({"architecture": PAIRS, "checkpoint": "nowhere.safetensors"}, "there is no checkpoint nowhere.safetensors"),
        ({"architecture": ARCHITECTURE, "preprocessing": {"size": (24, 24)}}, "16 x 16 pixels, got .* 24 x 24"),
    ],
)
def test_what_cannot_be_built_is_one_sentence(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        build_clip(ClipSpec(**settings), tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": {**ARCHITECTURE, "quick_gellu": True}}, "did you mean 'quick_gelu'"),
        ({"architecture": {"embed_dim": 8}}, "vision_cfg is missing"),
        ({"architecture": ARCHITECTURE, "pretrained": "openai"}, "belongs to a named architecture"),
        ({"architecture": "ViT-B-16", "pretrained": "openai", "checkpoint": "file.pt"}, "not both"),
    ],
)
def test_a_spec_that_is_no_network_is_refused_when_made(settings, message):
    with pytest.raises(ValueError, match=message):
        ClipSpec(**settings)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_checkpoints_come_back_as_they_were_saved(tmp_path, suffix):
    clip, file = tiny_clip(seed=5), tmp_path / f"weights{suffix}"
    state = clip.model.state_dict()
    save_file(state, file) if suffix == ".safetensors" else torch.save({"state_dict": state}, file)
    again = build_clip(spec(checkpoint=str(file)))
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.model.state_dict().items())


def siglip(state):
    return {"epoch": 1, "state_dict": state | {"logit_bias": torch.tensor(-10.0)}}


def compiled_average(state):
    return {"ema": {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}, "optimizer": {"lr": 0.1}}


def lightning(state):
    return {"state_dict": {f"model.{name}": tensor.half().float() for name, tensor in state.items()}}


def one_dimensional_scale(state):
    return state | {"logit_scale": state["logit_scale"].reshape(1)}


@pytest.mark.parametrize("form", [siglip, compiled_average, lightning, one_dimensional_scale])
def test_checkpoints_are_read_in_the_forms_that_training_scripts_write(tmp_path, form):
    clip, file = tiny_clip(seed=5), tmp_path / "weights.pt"
    state = {name: tensor.half().float() for name, tensor in clip.model.state_dict().items()}
    torch.save(form(state), file)
    again = build_clip(spec(checkpoint=str(file)))
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.model.state_dict().items())


def test_a_network_with_a_bias_of_the_sigmoid_loss_reads_weights_that_have_none(tmp_path):
    clip, file = tiny_clip(seed=5), tmp_path / "weights.pt"
    torch.save(clip.model.state_dict(), file)
    biased = spec(architecture=ARCHITECTURE | {"init_logit_bias": -10.0}, checkpoint=str(file))
    assert build_clip(biased).model.logit_bias == 0


def test_position_embeddings_are_resized_and_the_resizing_is_logged(tmp_path, caplog):
    clip, file = tiny_clip(seed=5), tmp_path / "weights.pt"
    torch.save(clip.model.state_dict(), file)
    vision = ARCHITECTURE["vision_cfg"]
    larger = ARCHITECTURE | {"vision_cfg": vision | {"image_size": 2 * vision["image_size"]}}
    tower = build_clip(ClipSpec(architecture=larger, words=spec().words, checkpoint=str(file))).model.visual
    patches = (2 * vision["image_size"] // vision["patch_size"]) ** 2
    assert tower.positional_embedding.shape[0] == patches + 1
    assert "visual.positional_embedding" in caplog.text
    assert torch.equal(tower.positional_embedding[0], clip.model.visual.positional_embedding[0])


@pytest.mark.parametrize("prefix", ["", "visual."])
def test_an_image_tower_alone_is_refused_for_the_text_tower_that_it_lacks(tmp_path, prefix):
    file = tmp_path / "tower.pt"
    torch.save({prefix + name: tensor for name, tensor in tiny_clip().model.visual.state_dict().items()}, file)
    with pytest.raises(ValueError, match=r"tower\.pt .*text tower"):
        build_clip(spec(checkpoint=str(file)))


@pytest.mark.parametrize("harm", ["cut", "pickle", "other", "nan", "empty"])
def test_damaged_and_foreign_checkpoints_are_refused(tmp_path, harm):
    state, file = tiny_clip().model.state_dict(), tmp_path / "weights.pt"
    if harm == "nan":
        state["visual.proj"][0, 0] = float("nan")
    if harm == "other":
        state["visual.proj"] = state["visual.proj"][:, :3].clone()
    torch.save(tiny_clip() if harm == "pickle" else {} if harm == "empty" else state, file)
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"weights\.pt"):
        build_clip(spec(checkpoint=str(file)))


def test_equal_specs_give_equal_weights_and_leave_the_random_state():
    before = torch.get_rng_state()
    one, two, other = tiny_clip(1), tiny_clip(1), tiny_clip(2)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.encode_image(images()), two.encode_image(images()))
    assert not torch.equal(one.encode_image(images()), other.encode_image(images()))


def test_the_image_tower_is_the_image_encoder_and_shows_its_levels():
    clip = tiny_clip()
    features, levels = clip.image_tower.with_levels(images())
    assert torch.equal(features, clip.encode_image(images()))
    assert [level.shape for level in levels] == [(6, 5, 32)] * 3  # before the first block, after each of two


def test_patches_are_the_tokens_of_open_clip_projected_as_the_image_is():
    visual = tiny_clip().model.visual
    patches = tiny_clip().image_tower.patches(images())
    assert patches.shape == (6, 2, 2, 16)
    visual.output_tokens = True
    torch.testing.assert_close(patches.flatten(1, 2), visual(images())[1] @ visual.proj)


def test_residual_networks_have_no_levels():
    tower = build_clip(
        spec(architecture=ARCHITECTURE | {"vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}})
    )
    assert tower.image_tower(torch.randn(2, 3, 64, 64)).shape == (2, 16)
    with pytest.raises(ValueError, match="open_clip"):
        tower.image_tower.with_levels(torch.randn(2, 3, 64, 64))
    assert tower.image_tower.patches(torch.randn(2, 3, 64, 64)) is None


def test_preprocessing_can_be_given_and_has_the_size_of_the_encoder():
    assert tiny_clip().preprocessing.size == (16, 16)
    own = Preprocessing(size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
    assert build_clip(spec(preprocessing=own)).preprocessing == own


def test_weights_are_given_pictures_as_they_were_trained_on(tmp_path):
    own = Preprocessing(size=(224, 224))
    with pytest.raises(ValueError, match=r"mean \(0\.5, 0\.5, 0\.5\).* \(0\.48"):
        require_weights(ClipSpec(architecture="ViT-L-14", pretrained="laion2b_s32b_b82k", preprocessing=own), tmp_path)


def test_captions_of_unknown_words_and_too_many_words_are_refused():
    with pytest.raises(ValueError, match="'cat'"):
        tiny_clip().encode_text(["a photo of a cat"])
    with pytest.raises(ValueError, match="at most 6"):
        tiny_clip().encode_text(["a a a a a a a"])


def test_captions_differ_in_words_not_in_case_and_full_stops():
    clip = tiny_clip()
    plain, dotted, other = clip.encode_text(["a photo of the digit two", "A photo of the digit two.", "a photo of one"])
    assert torch.equal(plain, dotted) and not torch.allclose(plain, other)


def test_the_prompts_of_radford_et_al_are_80_templates_and_1000_names():
    templates, names = openai_templates(), imagenet_classes()
    assert len(templates) == 80 and all(template.count("{}") == 1 for template in templates)
    assert len(names) == 1000 and names == tuple(open_clip.IMAGENET_CLASSNAMES)
