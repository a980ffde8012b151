"""Every configuration composes; what a user mistypes is one clear error."""

import itertools
from pathlib import Path

import pytest
import tiny_dreambooth
from hydra import compose, initialize_config_dir

from likeness import config, models
from likeness.config import load_subject
from likeness.dreambooth import TrainSettings, storage
from likeness.errors import InputError
from likeness.study import photo, place
from likeness.study.cell import run_cell
from likeness.study.edited import find
from likeness.study.edits import local_blend
from likeness.study.finetune import finetune
from likeness.study.idle import refuse_idle
from likeness.study.job import prior_of
from likeness.study.place import model_folder
from likeness.study.plan import plan_edit

CONF = Path(__file__).parents[1] / "conf"


@pytest.fixture(autouse=True)
def _hydra():
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        yield


def options(group: str) -> list[str]:
    return sorted(p.stem for p in (CONF / group).glob("*.yaml"))


def sweep(*overrides: str) -> config.Sweep:
    return config.to_sweep(compose("sweep", [*overrides]))


def train(*overrides: str) -> config.Train:
    return config.to_train(compose("train", [*overrides]))


TRAIN_GROUPS = ("subject", "prior_class", "model", "method", "schedule", "logger")
SWEEP_GROUPS = (*TRAIN_GROUPS, "edit", "sampler", "metrics")


@pytest.mark.parametrize("choice", [f"{g}={o}" for g in SWEEP_GROUPS for o in options(g)])
def test_every_option_composes(choice):
    group, option = choice.split("=")
    composed = sweep(choice)
    if group not in ("prior_class", "metrics"):
        assert getattr(composed, group).name == option
    if group in TRAIN_GROUPS:
        train(choice)


@pytest.mark.parametrize("name", options("experiment"))
def test_every_experiment_composes_and_asks_something(name):
    """Its swept values have to plan, as they will when it is run: all combinations, or each value of a large sweep."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    swept = OmegaConf.load(CONF / "experiment" / f"{name}.yaml").hydra.sweeper.params
    parsed = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in swept.items()])
    choices = [[f"{o.key_or_group}={v}" for v in o.sweep_string_iterator()] for o in parsed if o.is_sweep_override()]
    fixed = [f"{o.key_or_group}={o.get_value_element_as_str()}" for o in parsed if not o.is_sweep_override()]
    combinations = list(itertools.product(*choices))
    if len(combinations) > 16:
        first = [axis[0] for axis in choices]
        combinations = [[*first[:n], value, *first[n + 1 :]] for n, axis in enumerate(choices) for value in axis]
    for combination in combinations:
        composed = sweep(f"experiment={name}", *fixed, *combination)
        assert composed.question.endswith("?") and plan_edit(photo.settled(composed))


def test_prior_class_follows_the_subject():
    assert train("subject=bnh").prior_class.class_word == "keanu reeves"
    assert train("subject=tuki").prior_class.class_word == "justin bieber"
    assert train("subject=bnh", "prior_class=justin_bieber").prior_class.class_word == "justin bieber"
    assert train("subject=bnh", "model=sd15").prior_class.prompts == ["photo of {class_word}"]
    assert train("prior_class=none").prior_class.prompts == []


def test_of_several_subjects_each_keeps_its_own_class_unless_one_is_named():
    bnh, tuki = (load_subject(CONF, name) for name in ("bnh", "tuki"))
    own, named = train("subject=bnh"), train("subject=bnh", "prior_class=keanu_reeves")
    words = {prior_of(own, tuki).prompts[0], prior_of(own, bnh).prompts[0]}
    assert words == {"photo of justin bieber", "photo of keanu reeves"}
    assert prior_of(named, tuki).prompts[0] == "photo of keanu reeves"
    assert model_folder(own) == model_folder(named), "for one subject they are the same training"
    assert model_folder(own, [bnh, tuki]) != model_folder(named, [bnh, tuki])
    assert model_folder(own, [bnh, tuki]).name.startswith("bnh+tuki-own-full-")
    assert model_folder(named, [bnh, tuki]).name.startswith(f"bnh+tuki-{named.prior_class.name}-full-")


def test_the_text_encoders_layers_with_adapters_can_be_chosen():
    """Models made before that keep their names."""
    usual, fewer = (train("method=lora", *more) for more in ((), ("method.lora_text_encoder_targets=[q_proj]",)))
    assert place.settings(usual).lora_text_encoder_targets == TrainSettings().lora_text_encoder_targets
    assert place.settings(fewer).lora_text_encoder_targets == ("q_proj",)
    hashed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, "short_hash", lambda identity: hashed.append(identity["method"]) or "0")
        model_folder(usual), model_folder(fewer)
    assert "lora_text_encoder_targets" not in hashed[0]
    assert hashed[1] == hashed[0] | {"lora_text_encoder_targets": ["q_proj"]}


@pytest.mark.parametrize("subject", ["bnh", "tuki"])
def test_the_card_is_of_the_models_that_the_defaults_train(subject):
    """Under their very names: what can be chosen since then does not rename them while it is left alone."""
    card = (Path(models.__file__).parent / "paperdoll" / "weights" / "MODEL_CARD.md").read_text()
    usual = model_folder(train(f"subject={subject}"))
    assert f"| {usual.name} |" in card
    assert model_folder(train(f"subject={subject}", "method.cuda_graph=false")) != usual


@pytest.mark.filterwarnings("ignore:.*the same picture:UserWarning")
def test_everything_that_is_trained_on_names_the_model(tmp_path):
    """Bytes count: of photos, captions, pictures of an own class folder and a base model that lies here."""
    base = tiny_dreambooth.save_model(tmp_path / "base")
    photos = tiny_dreambooth.save_photos(tmp_path / "photos")
    classes = tiny_dreambooth.save_photos(tmp_path / "class", 4, offset=9)
    mine = (f"subject.photos={photos}", f"prior_class.folder={classes}", f"model.source={base}")
    composed = train(*mine, "prior_class.num_class_images=3")
    prior = prior_of(composed, composed.subject)

    def names():
        concepts = [place.concept(composed.subject, prior)]
        base_id = models.weights_id(place.model_source(composed.model))
        identity = storage.identity(base_id, concepts, place.settings(composed))
        return model_folder(composed), place.short_hash(identity)

    seen = [names()]
    (classes / "notes.txt").write_text("not a picture")
    tiny_dreambooth.save_photos(tmp_path / "other", 1, offset=99).joinpath("00.png").rename(classes / "03.png")
    assert names() == seen[0], "the fourth picture is not trained on"
    (classes / "01.png").write_bytes((classes / "00.png").read_bytes())
    seen.append(names())
    (photos / "01.png").write_bytes((photos / "00.png").read_bytes())
    seen.append(names())
    (photos / "02.txt").write_text("tuki justin bieber, smiling")
    seen.append(names())
    config_file = base / "unet" / "config.json"
    config_file.write_text(config_file.read_text() + " ")
    seen.append(names())
    assert all(len(set(column)) == 5 for column in zip(*seen, strict=True))


def test_how_far_self_attention_is_injected_comes_from_the_model_unless_told():
    assert sweep().edit.self_replace_resolution == 16
    assert sweep("model=sd15").edit.self_replace_resolution is None
    assert sweep("edit.self_replace_resolution=8").edit.self_replace_resolution == 8


def test_blending_starts_where_the_behaviour_says_unless_told():
    for chosen, start in (("corrected", None), ("reference_stable", None)):
        composed = sweep("edit=blend", f"edit.behaviour={chosen}")
        assert local_blend(plan_edit(composed), composed.edit).start is start
    composed = sweep("edit=blend", "edit.blend.start=0.4")
    assert local_blend(plan_edit(composed), composed.edit).start == 0.4


def test_an_edit_blends_once_an_option_of_its_blend_is_given():
    assert sweep("edit=local").edit.blend is None and config.Sweep().edit.blend is None
    assert sweep("edit=local", "edit.blend.threshold=0.5").edit.blend == config.Blend(threshold=0.5)
    blend = sweep("edit=refine", "edit.blend={words:[[forest],[hat]],substruct_words:[photo,photo]}").edit.blend
    assert blend == config.Blend([["forest"], ["hat"]], [["photo"], ["photo"]], threshold=0.7)
    given = sweep("edit=local", "model=sd15", "edit.blend.words=[burger,cake]").edit.blend
    assert given == config.Blend([["burger"], ["cake"]], threshold=0.3)
    assert sweep("edit=local", "edit.blend.threshold=[0.3,1]").edit.blend.threshold == [0.3, 1.0]
    assert sweep("edit=blend", "edit.blend=null").edit.blend is None
    assert config.from_plain(config.to_plain(sweep("edit=local"))).edit.blend is None


def test_a_window_may_be_given_by_its_end():
    edit = sweep("edit.cross_replace_steps=0.8", "edit.self_replace_steps=0", "+edit.word_windows.cake=1").edit
    assert (edit.cross_replace_steps, edit.self_replace_steps, edit.word_windows) == (
        [0, 0.8],
        [0, 0],
        {"cake": [0, 1]},
    )
    assert all(isinstance(v, float) for v in (*edit.cross_replace_steps, *edit.self_replace_steps))


def test_schedule_values_come_from_model_and_method():
    full, lora = train("model=sd15", "method=full"), train("model=sd15", "method=lora")
    assert (full.schedule.learning_rate, lora.schedule.learning_rate) == (1e-6, 1e-4)
    assert train("model=sd15", "schedule=long").schedule.num_train_steps == 1200


@pytest.mark.parametrize("schedule", ["quick", "standard", "long", "find"])
@pytest.mark.parametrize(("method", "rate"), [("full", 1e-6), ("lora", 5e-5)])
def test_stable_diffusion_learns_a_face_with_its_text_encoder(method, rate, schedule):
    told = ("model=sd15", f"method={method}", f"schedule={schedule}", "device=cpu")
    settings = place.settings(train(*told))
    assert settings.text_encoder_steps == settings.num_train_steps
    assert settings.text_encoder_learning_rate == rate
    assert place.settings(train(*told, "model.train_text_encoder=false")).text_encoder_steps == 0


@pytest.mark.parametrize(
    ("typed", "layers", "rate"),
    [
        ("model=paperdoll", "identifier", 1e-2),
        ("model=paperdoll method.text_encoder_layers=all", "all", 4.5e-4),
        ("model=sd15 method.text_encoder_layers=identifier device=cpu", "identifier", 5e-4),
        ("model=paperdoll method.train_text_encoder=false", "all", 1e-2),
    ],
)
def test_the_text_encoders_rate_is_that_of_the_layers_trained(typed, layers, rate):
    settings = place.settings(train(*typed.split()))
    assert (settings.text_encoder_layers, settings.text_encoder_learning_rate) == (layers, rate)


def test_unknown_layers_are_named_with_the_known():
    with pytest.raises(InputError, match=r"text_encoder_layers=some is unknown; choose one of all, identifier"):
        train("method.text_encoder_layers=some")


def test_metrics_follow_the_model():
    assert sweep("model=paperdoll").metrics.name == "embedded"
    assert sweep("model=sd15").metrics.name == "standard"


def test_the_source_prompts_are_the_studys():
    assert sweep("subject=bnh").edit.source == "A painting of a bnh keanu reeves eating a burger"
    assert sweep("subject=bnh", "edit=global").edit.source == "drawing of a bnh keanu reeves on a snowy mountain"
    assert sweep("edit=global").edit.source == "photo of a tuki justin bieber wearing a sunglasses in a forest"
    assert sweep("edit=reweight").edit.source == (
        "tuki justin bieber wearing a pair of sunglasses under a blossom tree"
    )


@pytest.mark.parametrize("typo", ["subject.nam=x", "edit.cros=1", "sampler.steps=5"])
def test_a_typo_fails(typo):
    with pytest.raises(Exception, match=r"not in|Could not override"):
        sweep(typo)


@pytest.mark.parametrize("extra", ["+stile=watercolor", "+edit.stile=x"])
def test_an_added_key_cannot_slip_past_the_schema(extra):
    with pytest.raises(Exception, match="stile"):
        sweep(extra)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("edit.operator=swap", "choose one of replace, refine, reweight"),
        ("edit.cross_replace_steps=[0,1.2]", "0 <= start <= end <= 1"),
        ("edit.self_replace_steps=[0.5]", "0 <= start <= end <= 1"),
        ("edit.cross_replace_steps=1.2", "or the end alone"),
        ("edit.self_replace_steps=half", "or the end alone"),
        ("+edit.word_windows.cake=[0.5,0.2]", "word_windows.cake=.* 0 <= start <= end <= 1"),
        ("+edit.word_windows.default_=[0,0.1]", "the window of all others is edit.cross_replace_steps"),
        ("edit.blend.threshold=1.5", "between 0 and 1, or two"),
        ("edit.blend.threshold=[0.3]", "between 0 and 1, or two"),
        ("edit.blend.words=[cake]", "of the source and of the target"),
        ("seeds=[1,1]", "different numbers"),
        ("seeds=[]", "different numbers"),
        ("sampler.num_inference_steps=0", "at least 1"),
        ("sampler={guidance_scale:1,negative_prompt:hat}", "does nothing without guidance"),
        ("sampler.scheduler=ddpm", "choose one of ddim, pndm, dpm, euler"),
        ("logger.mode=onlin", "auto, online, offline"),
    ],
)
def test_values_out_of_range_say_what_is_expected(override, message):
    with pytest.raises(InputError, match=message):
        sweep(override)


@pytest.mark.parametrize("model", ["paperdoll", "sd15"])
@pytest.mark.parametrize("edit", ["local", "blend"])
def test_a_word_swap_holds_its_maps_as_long_as_in_the_paper(model, edit):
    assert sweep(f"edit={edit}", f"model={model}").edit.cross_replace_steps == [0.0, 0.8]


def test_one_subject_is_no_list_of_several():
    with pytest.raises(InputError, match=r"names one subject; use subject=bnh"):
        train("subjects=[bnh]")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("subject=bnh subjects=[bnh,tuki]", "remove subject=bnh to train those, or .* to train the one"),
        ("subjects=[bnh,tuki] subject.photos=/me", "subject.photos=/me does nothing with subjects=.bnh,tuki."),
        ("logger=none logger.entity=ours", "logger.entity=ours does nothing with a logger that is off"),
        ("method.lora_rank=4", "method.lora_rank=4 does nothing with method=full"),
        ("method.lora_text_encoder=false", "use method.train_text_encoder"),
        ("method.lora_text_encoder_targets=[q_proj]", "does nothing with method=full"),
        ("method=lora model.train_text_encoder=0 method.lora_text_encoder_targets=[q_proj]", "that is not trained"),
        ("method=lora method.train_text_encoder=false", "use method.lora_text_encoder"),
        ("method=lora method.unet_layers=crossattn", "does nothing with method=lora; use method.lora_targets"),
        ("method=lora method.text_encoder_layers=identifier", "does nothing with method=lora"),
        ("method=lora model.text_encoder_layers=all", "does nothing with method=lora"),
        ("model.train_text_encoder=0 method.text_encoder_layers=identifier", "that is not trained"),
        ("method.train_text_encoder=false schedule.text_encoder_learning_rate=1e-5", "that is not trained"),
        ("prior_class=none prior_class.num_class_images=20", "such as prior_class=none; leave it out"),
        ("prior_class=none model.num_class_images=20", "such as prior_class=none; leave it out"),
        ("prior_class.folder=/mine prior_class.num_inference_steps=9", "whose pictures are not drawn"),
        ("prior_class.folder=/mine prior_class.prompts=[a,b]", "give one prompt"),
        ("prior_class.class_word=man", "which follows subject.class_word"),
        ("prior_class=keanu_reeves prior_class.prompts=[x] prior_class.class_word=man", 'without "{class_word}"'),
        ("schedule.crops=-1 schedule.cache_latents=true", "a fresh crop at every step"),
        ("sample_every=0 sample_prompts=[x]", "sample_every=0 and no ladder"),
        ("model.dtype=bfloat16", "trains in model.mixed_precision and edits nothing; give it to sweep.py"),
        ("model.revision=main", "on this machine"),
        ("model.variant=fp16 model.source={file}", "a model in one file"),
        ("model=sd15 model.config=/there", "not one file"),
    ],
)
def test_an_option_that_does_nothing_is_refused(typed, message, tmp_path):
    (tmp_path / "one.safetensors").touch()
    overrides = typed.format(file=tmp_path / "one.safetensors").split()
    with pytest.raises(InputError, match=message):
        finetune(train(*overrides), tmp_path, [], overrides)
    if not any(word in typed for word in ("sample", "subjects", "dtype")):
        with pytest.raises(InputError, match=message):
            run_cell(sweep(*overrides, f"out={tmp_path}"), tmp_path / "run", overrides)


@pytest.mark.parametrize(
    "typed",
    [
        "subjects=[bnh,tuki] schedule=quick", "subject=bnh subject.photos=/me", "method=lora method.lora_rank=4",
        "method=lora method.lora_text_encoder_targets=[q_proj]",
        "method.unet_layers=crossattn_kv method.text_encoder_layers=identifier",
        "schedule.text_encoder_learning_rate=1e-5", "model=sd15 model.revision=main", "schedule.crops=-1",
        "prior_class.own=false prior_class.class_word=man", "sample_every=0 schedule=find sample_prompts=[x]",
    ],
)  # fmt: skip
def test_an_option_that_acts_is_not(typed):
    refuse_idle(train(*typed.split()), typed.split())


def test_a_graph_is_left_out_where_a_gpu_would_have_one():
    typed = ["device=cpu", "method.cuda_graph=false"]
    with pytest.raises(InputError, match="does nothing with a device that is no CUDA GPU"):
        refuse_idle(train(*typed), typed)
    refuse_idle(sweep(*typed), typed)  # of a model that was trained on one


def test_a_subject_file_alone():
    subject = config.load_subject(CONF, "bnh")
    assert subject.prompts["local"] == "A painting of a bnh keanu reeves eating a burger"
    with pytest.raises(InputError, match="bnh, tuki"):
        config.load_subject(CONF, "nobody")


def test_a_four_line_subject_is_enough(tmp_path):
    (tmp_path / "subject").mkdir()
    (tmp_path / "subject" / "me.yaml").write_text(
        "name: me\nidentifier: zwx\nclass_word: man\nphotos: /somewhere\n", encoding="utf-8"
    )
    subject = config.load_subject(tmp_path, "me")
    assert subject.instance_prompt == "photo of zwx man"
    assert subject.prompts["local"] == "A painting of a zwx man eating a burger"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("van gogh", "van_gogh"), ("../../etc", "etc"), ("", "x"), ("Ünï 🌸", "n"), ("a" * 99, "a" * 48)],
)
def test_slugs_are_safe_in_paths(text, expected):
    assert config.slug(text) == expected


def test_automatic_precision_is_what_it_is_on_the_device(tmp_path, monkeypatch):
    """A model trained in float16 on a GPU is another one; a sweep on the CPU says that it is there."""
    common = ("model=sd15", "subject=bnh", "device=cpu", f"out={tmp_path}")
    auto, whole, half = (sweep(*common, f"model.mixed_precision={p}") for p in ("auto", "no", "fp16"))
    assert model_folder(auto) == model_folder(whole) != model_folder(half)
    with pytest.raises(InputError) as none:
        find(auto, "python train.py")
    assert "in precision" not in str(none.value)
    monkeypatch.setattr("likeness.dreambooth.is_finished", lambda folder: folder == model_folder(half))
    with pytest.raises(InputError, match=r"in precision fp16 \(here: no\); model.mixed_precision=fp16 takes"):
        find(auto, "python train.py")
    assert find(half, "python train.py").folder == model_folder(half)
