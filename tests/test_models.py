"""Naming and loading models: folder, single file, hub id offline; identities; devices and precisions."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import tiny_dreambooth as tiny
import torch

from likeness.errors import InputError
from likeness.models import (
    SD15,
    ModelSource,
    check_available,
    file_id,
    load_pipeline,
    resolve_device,
    resolve_dtype,
    save_pipeline,
    weights_id,
)


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(tiny.root() / "model", tmp_path / "model")


@pytest.fixture
def asked(folder, monkeypatch, tmp_path):
    """What the hub was asked for; its cache is empty, and every download is the folder."""
    found = {}

    def download(source, **options):
        found.update(options, source=source)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return found


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIKENESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_a_folder_loads_ready_to_sample(folder):
    pipe = load_pipeline(tiny.source(folder))
    assert pipe.safety_checker is None and not pipe.unet.training and pipe.unet.dtype == torch.float32
    half = load_pipeline(tiny.source(folder), dtype="bfloat16")
    assert half.unet.dtype == half.text_encoder.dtype == torch.bfloat16


def test_a_single_file_loads_against_a_local_configuration(folder, tmp_path):
    from likeness.export import export_checkpoint

    export_checkpoint(folder, tmp_path / "one.safetensors")
    pipe = load_pipeline(ModelSource("one", str(tmp_path / "one.safetensors"), config=str(folder)))
    wanted = load_pipeline(tiny.source(folder)).unet.state_dict()
    assert tiny.same(pipe.unet.state_dict(), wanted)


def test_a_single_file_needs_no_parts_that_are_never_loaded(folder, tmp_path):
    from likeness.export import export_checkpoint

    export_checkpoint(folder, tmp_path / "one.safetensors")
    index = folder / "model_index.json"
    parts = json.loads(index.read_text())
    parts["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    parts["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index.write_text(json.dumps(parts))
    pipe = load_pipeline(ModelSource("one", str(tmp_path / "one.safetensors"), config=str(folder)))
    assert pipe.feature_extractor is pipe.safety_checker is None and not pipe.config.requires_safety_checker


def test_a_single_file_of_another_family_says_what_it_was_read_against(folder, tmp_path):
    from likeness.export import export_checkpoint

    export_checkpoint(folder, tmp_path / "one.safetensors")
    other = tiny.save_model(tmp_path / "other", width=24)
    with pytest.raises(InputError, match=rf"read against the configuration of {other}; another: model.config=FOLDER"):
        load_pipeline(ModelSource("one", str(tmp_path / "one.safetensors"), config=str(other)))


def test_a_single_file_without_configuration_says_how_to_give_one(folder):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(InputError, match=r"model.config=FOLDER"):
        check_available(ModelSource("one", str(file), local_files_only=True))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        check_available(ModelSource("one", str(file)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            SD15,
            r"not in the local cache.*unet/diffusion_pytorch_model.safetensors.*hf download stable-diffusion-v1-5",
        ),
        ("runwayml/stable-diffusion-v1-5", "was withdrawn from the hub; use stable-diffusion-v1-5"),
        ("./nowhere", "no file or folder ./nowhere"),
        ("/nowhere/model.safetensors", "no file or folder /nowhere"),
        ("word", "no file or folder word"),
    ],
)
def test_a_model_that_is_not_there(source, message, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=message):
        check_available(ModelSource("sd15", source))


def test_a_folder_that_is_no_model_or_lacks_a_part(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not a folder in the diffusers layout"):
        check_available(tiny.source(tmp_path / "empty"))
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(folder / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match=r"lacks vae/diffusion_pytorch_model.safetensors.*are not read"):
        check_available(tiny.source(folder))


def test_a_hub_model_that_is_not_cached_is_downloaded_for_its_identity(folder, asked, monkeypatch):
    with pytest.raises(InputError, match="not in the local cache"):
        weights_id(ModelSource("sd15", SD15))
    assert not asked, "offline nothing is asked for"
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    assert weights_id(ModelSource("sd15", SD15, revision="abc")) == weights_id(tiny.source(folder))
    assert asked["source"] == SD15 and asked["revision"] == "abc"
    wanted = asked["allow_patterns"]
    assert "unet/diffusion_pytorch_model.safetensors" in wanted and "tokenizer/*" in wanted
    assert not any(".bin" in name or "safety" in name for name in wanted)
    (folder / "vae" / "config.json").unlink()
    with pytest.raises(InputError, match=r"lacks vae/config\.json"):
        weights_id(ModelSource("sd15", SD15))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: (_ for _ in ()).throw(OSError("no net")))
    with pytest.raises(InputError, match=r"hf download stable-diffusion-v1-5.*no net"):
        weights_id(ModelSource("sd15", SD15))


def test_a_saved_pipeline_has_the_names_and_files_of_stable_diffusion(folder, tmp_path):
    """Whatever version of transformers wrote it: older ones would start another text encoder at random."""
    from safetensors.torch import load_file

    pipe = load_pipeline(tiny.source(folder))
    save_pipeline(pipe, tmp_path / "saved")
    names = load_file(tmp_path / "saved" / "text_encoder" / "model.safetensors")
    assert names and all(name.startswith("text_model.") for name in names)
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / "saved" / "tokenizer" / name).is_file()
    again = load_pipeline(tiny.source(tmp_path / "saved"))
    assert tiny.same(again.text_encoder.state_dict(), pipe.text_encoder.state_dict())
    assert again.tokenizer("photo of tuki").input_ids == pipe.tokenizer("photo of tuki").input_ids
    save_pipeline(again, tmp_path / "again")
    assert load_file(tmp_path / "again" / "text_encoder" / "model.safetensors").keys() == names.keys()


def test_a_missing_variant_is_named(folder):
    with pytest.raises(InputError, match=r"lacks unet/diffusion_pytorch_model.fp16.safetensors"):
        check_available(ModelSource("half", str(folder), variant="fp16"))


def test_pickled_files_are_refused(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"x")
    with pytest.raises(InputError, match=r"only .safetensors is read"):
        check_available(ModelSource("old", str(tmp_path / "model.ckpt")))


def test_the_identity_follows_content_not_place(folder):
    known = weights_id(tiny.source(folder))
    assert known == weights_id(tiny.source(tiny.root() / "model")) == weights_id(tiny.source(folder))
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"beta_end": 0.02}))
    changed = weights_id(tiny.source(folder))
    assert changed != known
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert weights_id(tiny.source(folder)) not in {known, changed}


def test_a_single_file_is_what_it_is_read_against(folder, tmp_path):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"

    def identity():
        return weights_id(ModelSource("one", str(file), config=str(folder)))

    seen = [file_id(file), identity()]
    assert identity() == seen[-1]
    for name, old, new in (
        ("scheduler/scheduler_config.json", '"epsilon"', '"v_prediction"'),
        ("tokenizer/tokenizer_config.json", "{", "{ "),
        ("text_encoder/config.json", "{", "{ "),
    ):
        config = folder / name
        config.write_text(config.read_text().replace(old, new, 1))
        seen.append(identity())
    assert len(set(seen)) == 5


def test_a_single_file_without_configuration_is_known_by_that_of_stable_diffusion(folder, asked, monkeypatch):
    one = ModelSource("one", str(folder / "unet" / "diffusion_pytorch_model.safetensors"))
    with pytest.raises(InputError, match="not in the local cache"):
        weights_id(one)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    assert weights_id(one) == weights_id(replace(one, config=str(folder)))
    assert asked["source"] == SD15 and not any("safetensors" in name for name in asked["allow_patterns"])


def test_devices_and_precisions():
    assert resolve_device("cpu") == "cpu" and resolve_dtype("no", "cpu") == "float32"
    assert resolve_dtype("auto", "cpu") == "float32"
    with pytest.raises(InputError, match="float16 does not run on the CPU"):
        resolve_dtype("fp16", "cpu")
    with pytest.raises(InputError, match="unknown"):
        resolve_dtype("int8", "cpu")
    with pytest.raises(InputError, match="choose auto"):
        resolve_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="not available"):
            resolve_device("cuda")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == "cuda:1" and resolve_device("cuda") == "cuda"
    for absent in ("cuda:2", "cuda:x"):
        with pytest.raises(InputError, match=f"device={absent} is not available"):
            resolve_device(absent)


def test_bfloat16_is_refused_where_it_is_not_computed(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(InputError, match="this CPU does not compute in bfloat16"):
        resolve_dtype("bf16", "cpu")


def test_asking_needs_no_torch(folder):
    code = (
        "import sys; from likeness.models import *; import likeness.dreambooth as d, likeness.subjects;"
        f"m = ModelSource('m', {str(folder)!r}); check_available(m); weights_id(m); d.is_finished('.');"
        "assert 'torch' not in sys.modules and 'diffusers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
