"""What a user may get wrong: one clear error each, before anything is trained."""

import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tiny_dreambooth as tiny
import torch

from likeness.dreambooth import TrainSettings, check_concepts
from likeness.dreambooth.settings import check_class_folders
from likeness.dreambooth.setup import Run, check_pipeline
from likeness.errors import InputError
from likeness.models import load_pipeline
from likeness.subjects import Photo

SETTINGS = TrainSettings()


@pytest.fixture
def concept():
    return tiny.concept(tiny.root() / "photos")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identifier": "dog"}, "common word"),
        ({"identifier": "Justin", "class_word": "justin bieber"}, "part of the class word"),
        ({"identifier": ""}, "needs an identifier"),
        ({"instance_prompt": "photo of a man"}, "identifier 'tuki' is absent from .* 'photo of a man'"),
        ({"instance_prompt": "photo of tuki"}, "class word 'man' is absent"),
        ({"instance_prompt": "photo of tukiman man"}, "identifier 'tuki' is absent"),
        ({"class_prompts": ["photo of a tuki man"]}, "class prompt .* contains the identifier"),
        ({"photos": []}, "no photos"),
    ],
)
def test_a_concept_that_cannot_work(concept, change, message):
    with pytest.raises(InputError, match=message):
        check_concepts([replace(concept, **change)], SETTINGS)


def test_a_caption_must_name_the_subject(concept):
    photos = [Photo(concept.photos[0].path, "a man on a beach")]
    with pytest.raises(InputError, match="caption 'a man on a beach'"):
        check_concepts([replace(concept, photos=photos)], SETTINGS)
    check_concepts([replace(concept, photos=[Photo(concept.photos[0].path, "a tuki man, at sea")])], SETTINGS)


def test_subjects_that_do_not_go_together(concept):
    with pytest.raises(InputError, match="share the identifier 'tuki'"):
        check_concepts([concept, concept], SETTINGS)
    other = tiny.concept(tiny.root() / "photos2", "bnhx", prior=False)
    with pytest.raises(InputError, match="only tuki has class prompts"):
        check_concepts([concept, other], SETTINGS)
    with pytest.raises(InputError, match="num_class_images=0"):
        check_concepts([concept], TrainSettings(num_class_images=0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "dora"}, "method='dora' is unknown; choose one of full, lora"),
        ({"lr_scheduler": "step"}, "choose one of constant"),
        ({"lr_scheduler": "polynomial", "learning_rate": 1e-7}, "falls to a learning rate of 1e-07"),
        ({"mixed_precision": "int8"}, "choose one of no, bf16, fp16"),
        ({"num_train_steps": 0}, "at least 1"),
        ({"learning_rate": 0}, "above 0"),
        ({"learning_rate": float("nan")}, "above 0"),
        ({"prior_loss_weight": -1}, "must not be negative"),
        ({"train_text_encoder": 1.5}, "between 0 and 1"),
        ({"crops": -2}, "crops=-2"),
        ({"snr_gamma": 0}, "snr_gamma"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"keep_checkpoints": 1}, "at least 2"),
        ({"ladder": 900}, "ladder=900 must lie between 0"),
        ({"method": "lora", "train_text_encoder": True}, "does nothing with method=lora; use lora_text_encoder"),
        ({"lora_text_encoder": 0.5}, "does nothing with method=full; use train_text_encoder"),
        ({"train_text_encoder": 0.0001}, "train_text_encoder=0.0001 of 800 steps is less than one"),
        ({"method": "lora", "lora_text_encoder": 0.0001}, "lora_text_encoder=0.0001 of 800 steps .* at least 0.0013"),
        ({"train_text_encoder": True, "cache_text_embeddings": True}, "cache_text_embeddings=true"),
    ],
)
def test_settings_out_of_range(change, message):
    with pytest.raises(InputError, match=message):
        TrainSettings(**change)


def test_eight_bit_adam_needs_its_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"run: uv pip install -e '\.\[8bit\]'"):
        TrainSettings(use_8bit_adam=True)


def test_eight_bit_adam_that_does_not_run_on_the_device(tmp_path, monkeypatch):
    class NoKernel(torch.optim.SGD):
        def __init__(self, groups, **options):
            super().__init__(groups)

        def step(self):
            raise NotImplementedError("no kernel for cpu\nand a long list")

    fake = SimpleNamespace(optim=SimpleNamespace(AdamW8bit=NoKernel), __spec__="there")
    monkeypatch.setitem(sys.modules, "bitsandbytes", fake)
    with pytest.raises(InputError, match=r"no 8-bit optimizer that runs on cpu \(no kernel for cpu\)"):
        tiny.train_tiny(tmp_path / "run", use_8bit_adam=True)
    assert not (tmp_path / "run").exists(), "said before long work"


def test_a_model_that_cannot_be_trained(tmp_path):
    with pytest.raises(InputError, match="float16 does not run on the CPU"):
        tiny.train_tiny(tmp_path / "run", mixed_precision="fp16")
    with pytest.raises(InputError, match="resolution=33 must be a multiple of 4"):
        tiny.train_tiny(tmp_path / "run", resolution=33)
    with pytest.raises(InputError, match="lora targets nowhere"):
        tiny.train_tiny(tmp_path / "run", method="lora", lora_targets=("nowhere",))
    model = tiny.save_model(tmp_path / "model", prediction_type="sample")
    with pytest.raises(InputError, match="predicts 'sample'"):
        tiny.train_tiny(tmp_path / "run", model=model)


def test_a_prompt_that_is_too_long(tmp_path, concept):
    long = replace(concept, instance_prompt="photo of tuki man " + "x" * 80)
    with pytest.raises(InputError, match=r"tokens, 77 fit"):
        tiny.train_tiny(tmp_path / "run", concepts=[long])


def test_an_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to"):
        tiny.train_tiny(tmp_path / "file" / "run")


def test_a_users_own_class_folder_is_used(tmp_path, concept):
    folder = shutil.copytree(tiny.root() / "photos2", tmp_path / "class")
    own = replace(concept, class_dir=folder)
    done = tiny.train_tiny(tmp_path / "run", concepts=[own], num_class_images=2, num_train_steps=1)
    assert done.notices == [f"class folder {folder}: the first 2 pictures by name are used (num_class_images), 1 not"]
    with pytest.raises(InputError, match="holds 3 pictures, num_class_images=4"):
        tiny.train_tiny(tmp_path / "other", concepts=[own], num_class_images=4)
    with pytest.raises(InputError, match="does not exist"):
        tiny.train_tiny(tmp_path / "third", concepts=[replace(concept, class_dir=tmp_path / "none")])
    with pytest.raises(InputError, match="does not exist"):
        gone = replace(concept, class_dir=tmp_path / "none")
        tiny.train_tiny(tmp_path / "third", concepts=[gone], prior_loss_weight=0)
    (folder / "01.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"cannot read 01.png"):
        tiny.train_tiny(tmp_path / "fourth", concepts=[own], num_class_images=3)
    assert not (tmp_path / "fourth").exists(), "said before anything is loaded or written"


def test_one_class_folder_does_not_show_two_classes(tmp_path):
    folder = tiny.save_photos(tmp_path / "class", 3)
    man, dog = (
        replace(tiny.concept(tiny.root() / "photos", *who), class_dir=folder)
        for who in (("tuki", "man"), ("bnhx", "dog"))
    )
    settings = tiny.settings(num_class_images=3)
    with pytest.raises(InputError, match=r"as 'photo of a man' and as 'photo of a dog'; leave the folder out"):
        check_class_folders([man, dog], settings)
    check_class_folders([man, replace(dog, class_prompts=man.class_prompts)], settings)


def test_photos_smaller_than_a_resolution_that_only_the_model_knows_are_named(tmp_path, monkeypatch):
    """Its native size; a given one is compared when the photos are found."""
    pipe, concept = load_pipeline(tiny.source(tiny.root() / "model")), tiny.concept(tiny.root() / "photos")
    monkeypatch.setattr(pipe.unet.config, "sample_size", 64, raising=False)
    said = {}
    for resolution in (None, 128):
        run = Run(tiny.source(tmp_path), [concept], tiny.settings(resolution=resolution), tmp_path, None, {}, print)
        check_pipeline(pipe, run)
        said[resolution] = run.notices
    assert said[None][0].startswith("smaller than the model's 128 pixels: 00.png (96x96), 01.png (96x112)")
    assert not said[128]


@pytest.mark.parametrize(
    ("identifier", "refused"), [("dragon", True), ("burger", True), ("sks", False), ("zwx", False)]
)
def test_a_word_that_clip_knows_well_is_no_identifier(tiny_pipe, concept, identifier, refused, tmp_path):
    """The tokenizer is CLIP's own: tokens are in order of frequency."""
    run = Run(tiny.source(tmp_path), [concept], tiny.settings(), tmp_path, None, {}, print)
    prompt = f"photo of {identifier} man"
    run.concepts = [replace(concept, identifier=identifier, instance_prompt=prompt)]
    if refused:
        with pytest.raises(InputError, match="is a common word to this model"):
            check_pipeline(tiny_pipe, run)
    else:
        check_pipeline(tiny_pipe, run)


def test_an_identifier_that_is_a_token_of_the_class(tiny_pipe, concept, tmp_path):
    run = Run(tiny.source(tmp_path), [concept], tiny.settings(), tmp_path, None, {}, print)
    run.concepts = [
        replace(concept, identifier="sks", class_word="sks-like dog", instance_prompt="a sks sks-like dog")
    ]
    with pytest.raises(InputError, match="'sks' is one token of the class 'sks-like dog'"):
        check_pipeline(tiny_pipe, run)
