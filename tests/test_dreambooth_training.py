"""Fine-tuning a tiny Stable Diffusion, whole: what is trained, what is left alone, what is written."""

import contextlib
import csv
import json
import shutil
from collections import Counter
from types import SimpleNamespace

import pytest
import tiny_dreambooth as tiny
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from tiny_dreambooth import grid, pixels
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from likeness.dreambooth import is_finished, load_finetuned
from likeness.dreambooth.card import write_card
from likeness.dreambooth.observer import Observer
from likeness.dreambooth.sampling import SampleGrid
from likeness.dreambooth.setup import Run
from likeness.dreambooth.storage import History
from likeness.errors import InputError
from likeness.models import ModelSource, load_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


@contextlib.contextmanager
def global_hook(register, hook):
    """Call a hook at every module's forward pass."""
    handle = register(hook)
    try:
        yield
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A finished run with everything that looks on, and what it reported."""
    out, events, probed = tmp_path_factory.mktemp("full") / "run", [], []

    def probe(samples):
        probed.append(samples)
        return {"health/mean": float(pixels(samples.images).mean())}

    result = tiny.train_tiny(out, on_event=events.append, probe_samples=probe, sample_every=3)
    return out, events, probed, result


def test_it_writes_what_it_promises(full):
    out, events, _, result = full
    for name in (
        "model/model_index.json",
        "history.csv",
        "README.md",
        "settings.json",
        "samples/step-000000.png",
        "samples/step-000003.png",
    ):
        assert (out / name).is_file(), name
    assert is_finished(out) and result.steps == 6 and result.resumed_from == 0
    assert sorted(f.name for f in out.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]
    assert {e.kind for e in events} == {"log", "samples", "validation", "health", "checkpoint", "done"}
    assert not list(out.rglob("*.bin")) and not list(out.rglob("*.pt")) and not list(out.rglob("*.pkl"))


def test_history_holds_what_was_reported(full):
    out, events, _, _ = full
    with (out / "history.csv").open() as stream:
        rows = {int(row["step"]): row for row in csv.DictReader(stream)}
    for event in events:
        for name, value in event.values.items():
            if event.kind != "done" and name != "train/steps_per_second":
                assert float(rows[event.step][name]) == value
    assert {"health/identifier_entropy", "health/class_focus_change", "health/mean"} <= set(rows[6])
    loss = {step: float(row["validation/loss_instance"]) for step, row in rows.items() if step in (0, 6)}
    assert loss[6] < loss[0]


def test_only_the_unet_is_trained(full):
    out, base = full[0], tiny.root() / "model"
    assert not tiny.same(tiny.weights(out), tiny.weights(base))
    assert tiny.same(tiny.weights(out, "vae"), tiny.weights(base, "vae"))
    assert tiny.same(tiny.weights(out, "text_encoder"), tiny.weights(base, "text_encoder"))


def test_the_probe_sees_the_base_first_and_the_result_last(full):
    out, _, probed, _ = full
    assert [samples.step for samples in probed] == [0, 3, 6]
    first, last = pixels(probed[0].images), pixels(probed[-1].images)
    assert all(torch.equal(pixels(samples.base), first) for samples in probed)
    assert list(probed[0].images) == ["photo of tuki man", "photo of a man"]
    assert torch.allclose(first, grid(tiny.root() / "model"), atol=1e-2)
    assert torch.allclose(last, grid(out / "model"), atol=1e-2)
    assert (last - first).abs().max() > 0.05


def test_a_grid_or_sheet_is_there_whole_or_not_at_all(full, tmp_path, monkeypatch):
    """A kill in the middle of writing must not leave half a picture under its name."""
    from likeness.study.health import save_sheet

    real = Image.Image.save

    def half(self, path, *args, **kwargs):
        real(self, path, *args, **kwargs)
        path.write_bytes(path.read_bytes()[:100])
        raise KeyboardInterrupt

    sheet = Image.open(full[0] / "samples" / "step-000003.png")
    run = SimpleNamespace(out=tmp_path / "run", settings=tiny.settings(), concepts=[], resolution=32)
    run.out.mkdir()
    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(KeyboardInterrupt):
        Observer(run, None, None, None)._show(3, {"a": [sheet]})
    with pytest.raises(KeyboardInterrupt):
        save_sheet(sheet, run.out, 3)
    assert not list((run.out / "samples").glob("*.png"))


def test_base_pictures_are_drawn_once_for_all_runs_of_the_same_grid(full, tmp_path, monkeypatch):
    monkeypatch.setattr(SampleGrid, "draw", lambda self: pytest.fail("drawn again"))
    grid = SampleGrid(None, [tiny.concept(tiny.root() / "photos")], tiny.settings(), 32)
    model_id = json.loads((full[0] / "settings.json").read_text())["identity"]["model"]
    grid.prepare_base(model_id, "float32", tiny.root() / "class")
    assert torch.equal(pixels(grid.base), pixels(full[2][0].base))
    with pytest.raises(pytest.fail.Exception, match="drawn again"):
        grid.prepare_base("another model", "float32", tmp_path)


def test_the_card_says_how_it_was_made_and_what_was_measured(full):
    out, _, probed, _ = full
    card = (out / "README.md").read_text()
    record = json.loads((out / "settings.json").read_text())
    assert record["identity"]["model"] in card and record["identity"]["subjects"][0]["photos"] in card
    assert "| learning_rate | 0.001 |" in card and "| prior_loss_weight | 1.0 |" in card
    before, after = (float(pixels(samples.images).mean()) for samples in (probed[0], probed[-1]))
    assert f"| health/mean | {before:.4g} | {after:.4g} |" in card
    assert 'from_pretrained("model")' in card and "consent" in card


@pytest.mark.parametrize(
    ("base", "config", "line"),
    [
        ("a/hub-name", None, 'from_pretrained("a/hub-name")'),
        ("base.safetensors", None, 'from_single_file("base.safetensors")'),
        ("base.safetensors", "layout", 'from_single_file("base.safetensors", config="layout")'),
    ],
)
def test_the_card_loads_a_loras_base_as_it_is_stored(tmp_path, base, config, line):
    model = ModelSource("tiny", base, config=config)
    settings = tiny.settings(method="lora")
    run = Run(model, [tiny.concept(tiny.root() / "photos")], settings, tmp_path, None, {"model": "0"}, print)
    write_card(run, {}, {}, 6)
    card = (tmp_path / "README.md").read_text()
    assert f'pipe = StableDiffusionPipeline.{line}\npipe.load_lora_weights("lora")\n' in card


def test_the_rung_that_is_chosen_becomes_the_model(tmp_path):
    seen, shown = [], []

    def choose(rows):
        seen.append(rows)
        return 4

    options = {"ladder": 3, "ema_decay": 0.5, "validation_every": 0}
    result = tiny.train_tiny(
        tmp_path / "run",
        choose_step=choose,
        probe_samples=lambda s: shown.append(s) or {"health/x": float(s.step)},
        **options,
    )
    assert result.steps == 4 and [s.step for s in shown] == [0, 2, 4, 6]
    assert list(seen[0]) == [0, 2, 4, 6] and seen[0][2]["health/x"] == 2 and result.values == seen[0][4]
    plain = {"num_train_steps": 4, "ema_decay": 0.5, "validation_every": 0}
    tiny.train_tiny(tmp_path / "four", **plain)
    assert tiny.same(tiny.weights(tmp_path / "run"), tiny.weights(tmp_path / "four"))
    assert not (tmp_path / "run" / "rungs").exists()
    assert tiny.train_tiny(tmp_path / "run", choose_step=choose, **options).steps == 4 and len(seen) == 1
    with pytest.raises(InputError, match=r"settings\.ladder: 3 -> 0"):
        tiny.train_tiny(tmp_path / "run", **options | {"ladder": 0})
    with pytest.raises(InputError, match="choose_step"):
        tiny.train_tiny(tmp_path / "other", **options)


def test_a_finished_run_is_not_repeated_and_not_overwritten(full):
    out, events = full[0], []
    assert tiny.train_tiny(out, on_event=events.append, sample_every=0).resumed_from == 6
    assert events == []
    with pytest.raises(InputError, match=r"settings.learning_rate: 0.001 -> 0.002"):
        tiny.train_tiny(out, learning_rate=2e-3)


def test_what_a_kill_at_the_very_end_left_goes_when_the_run_is_found_finished(full):
    out = full[0]
    before = sorted(f.name for f in out.iterdir())
    for name in ("rungs", ".model.old", ".model.partial"):
        shutil.copytree(out / "model", out / name)
    (out / ".settings.json.partial").write_text("{")
    assert tiny.train_tiny(out, sample_every=0).resumed_from == 6
    assert sorted(f.name for f in out.iterdir()) == before


def test_a_folder_killed_while_it_was_replaced_leaves_nothing(tmp_path):
    from likeness.dreambooth.storage import write_folder

    (tmp_path / ".model.old").mkdir()
    write_folder(tmp_path / "model", lambda folder: (folder / "new").write_text(""), "the model")
    assert [f.name for f in tmp_path.iterdir()] == ["model"]


def test_lora_leaves_the_base_alone_and_loads_again(tmp_path):
    seen = []
    tiny.train_tiny(
        tmp_path / "run",
        method="lora",
        lora_alpha=16,
        lora_rank=2,
        lora_text_encoder=True,
        sample_every=6,
        probe_samples=lambda samples: seen.append(pixels(samples.images)) or {},
        learning_rate=1e-2,
    )
    again = load_finetuned(tiny.source(tiny.root() / "model"), tmp_path / "run")
    assert torch.allclose(grid(again), seen[-1], atol=1e-2)
    assert (seen[-1] - seen[0]).abs().max() > 0.05
    plain = load_pipeline(tiny.source(tiny.root() / "model"))
    assert torch.allclose(grid(plain), seen[0], atol=1e-2)
    plain.load_lora_weights(str(tmp_path / "run" / "lora"))
    assert torch.allclose(grid(plain), seen[-1], atol=1e-2)


def test_text_encoder_is_trained_for_its_share_of_the_steps(tmp_path):
    from safetensors.torch import load_file

    tiny.train_tiny(tmp_path / "run", train_text_encoder=0.5, keep_checkpoints=9, checkpoint_every=1)
    steps = [load_file(tmp_path / "run" / f"checkpoint-{k}" / "trainable.safetensors") for k in range(1, 7)]
    name = next(n for n in steps[0] if n.startswith("text_encoder") and n.endswith("q_proj.weight"))
    assert not torch.equal(steps[0][name], steps[2][name]), "trained up to step 3"
    assert torch.equal(steps[2][name], steps[5][name]), "frozen after step 3"
    base = tiny.weights(tiny.root() / "model", "text_encoder")
    assert not tiny.same(tiny.weights(tmp_path / "run", "text_encoder"), base)


def test_text_encoder_has_its_own_rate(tmp_path):
    options = {"train_text_encoder": True, "num_train_steps": 1, "adam_weight_decay": 0.0}
    tiny.train_tiny(tmp_path / "a", text_encoder_learning_rate=1e-4, **options)
    base, tuned = (tiny.weights(place, "text_encoder") for place in (tiny.root() / "model", tmp_path / "a"))
    moved = max(float((tuned[n] - base[n]).abs().max()) for n in base)
    assert moved == pytest.approx(1e-4, rel=0.05), "the first Adam step is the learning rate"
    unet_base, unet = tiny.weights(tiny.root() / "model"), tiny.weights(tmp_path / "a")
    assert max(float((unet[n] - unet_base[n]).abs().max()) for n in unet) == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_other_families_differ_by_data_only(tmp_path, kind):
    model = tiny.save_model(tmp_path / "model", prediction_type=kind, channels=6, width=24)
    options = {"noise_offset": 0.1, "caption_dropout": 0.5, "snr_gamma": 5.0, "flip": True, "crops": 2}
    concepts = [tiny.concept(tiny.root() / "photos"), tiny.concept(tiny.root() / "photos2", "bnhx", "dog")]
    tiny.train_tiny(
        tmp_path / "run",
        model=model,
        class_root=tmp_path / "class",
        concepts=concepts,
        num_train_steps=2,
        **options,
    )
    tuned = StableDiffusionPipeline.from_pretrained(tmp_path / "run" / "model", local_files_only=True)
    assert tuned.scheduler.config.prediction_type == kind and tuned.unet.config.in_channels == 6


def test_the_saved_model_is_the_average(tmp_path):
    from safetensors.torch import load_file

    tiny.train_tiny(tmp_path / "run", ema_decay=0.5)
    checkpoint = tmp_path / "run" / "checkpoint-6"
    saved, raw, average = (
        tiny.weights(tmp_path / "run"),
        load_file(checkpoint / "trainable.safetensors"),
        load_file(checkpoint / "ema.safetensors"),
    )
    assert all(torch.equal(saved[name], average[f"unet.{name}"]) for name in saved)
    assert any(not torch.equal(saved[name], raw[f"unet.{name}"]) for name in saved)


def test_checkpointing_gradients_changes_nothing(tmp_path):
    """But that blocks of both trained parts run a second time, for the backward pass."""
    runs = {}
    for name, on in (("a", False), ("b", True)):
        runs[name] = Counter()

        def count(module, given, seen=runs[name]):
            if module.training and torch.is_grad_enabled():
                seen[type(module).__name__] += 1

        with global_hook(register_module_forward_pre_hook, count):
            tiny.train_tiny(tmp_path / name, gradient_checkpointing=on, num_train_steps=2, train_text_encoder=True)
    one, other = tiny.weights(tmp_path / "a"), tiny.weights(tmp_path / "b")
    assert all(torch.allclose(one[n], other[n], atol=1e-5) for n in one)
    for block in ("ResnetBlock2D", "CLIPAttention"):
        assert runs["b"][block] > runs["a"][block] > 0, block


def test_gradients_are_clipped_to_their_norm(tmp_path):
    """Adam's first moment after one step is a tenth of the gradient it was given."""
    from safetensors.torch import load_file

    for most in (1e-3, 1e6):
        events, out = [], tmp_path / str(most)
        tiny.train_tiny(out, max_grad_norm=most, num_train_steps=1, on_event=events.append)
        reported = next(e.values["train/grad_norm"] for e in events if e.kind == "log")
        stored = load_file(out / "checkpoint-1" / "optimizer.safetensors")
        first = torch.cat([t.flatten() for name, t in stored.items() if name.endswith(".exp_avg")])
        assert 1e-2 < reported < 1e5
        assert 10 * float(first.norm()) == pytest.approx(min(most, reported), rel=1e-2)


def test_accumulated_micro_batches_are_averaged(tmp_path):
    """Many micro-batches must not mean larger gradients: the reported norm stays of the same size."""
    norms = {}
    for parts in (1, 8):
        events = []
        options = {"gradient_accumulation_steps": parts, "num_train_steps": 1, "train_batch_size": 1}
        tiny.train_tiny(tmp_path / str(parts), on_event=events.append, **options)
        norms[parts] = next(e.values["train/grad_norm"] for e in events if e.kind == "log")
    assert norms[8] < 1.5 * norms[1]


def test_the_rate_falls_over_the_steps_however_many_micro_batches_they_have(tmp_path):
    """Tests of two processes compare their rates with one's: see test_dreambooth_resume."""
    rates = []
    for parts in (1, 3):
        events = []
        options = {"lr_scheduler": "polynomial", "gradient_accumulation_steps": parts, "num_train_steps": 4}
        tiny.train_tiny(tmp_path / str(parts), on_event=events.append, **options)
        rates.append([e.values["train/lr"] for e in events if e.kind == "log"])
    fall = (1e-3 - 1e-7) / 4
    assert rates[0] == rates[1] == pytest.approx([1e-3 - step * fall for step in range(4)])


@pytest.mark.parametrize("method", ["full", "lora"])
def test_reduced_precision_keeps_trained_weights_whole(tmp_path, monkeypatch, method):
    from safetensors.torch import load_file

    monkeypatch.setattr("likeness.models.resolve_dtype", lambda name, device: name)  # bf16 is emulated if need be
    computed = set()

    def look(module, given, output):
        if isinstance(module, torch.nn.Conv2d) and module.training and torch.is_grad_enabled():
            computed.add(output.dtype)

    with global_hook(register_module_forward_hook, look):
        tiny.train_tiny(tmp_path / "run", method=method, mixed_precision="bf16", num_train_steps=2, sample_every=2)
    assert computed == {torch.bfloat16}, "the training steps run in the reduced precision"
    stored = load_file(tmp_path / "run" / "checkpoint-2" / "trainable.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.float32}
    name = next(iter(stored))
    assert not torch.equal(stored[name], stored[name].bfloat16().float())


def test_a_run_that_goes_on_tells_its_past_first(tmp_path):
    def lose_power(event):
        if event.kind == "checkpoint" and event.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny.train_tiny(tmp_path / "run", on_event=lose_power)
    before = History(tmp_path / "run" / "history.csv", 4).numbers()
    events = []
    tiny.train_tiny(tmp_path / "run", on_event=events.append)
    past = {event.step: event.values for event in events if event.kind == "past"}
    assert past == before and set(past) == {0, 1, 2, 3, 4}
    assert [event.kind for event in events[: len(past)]] == ["past"] * len(past)
