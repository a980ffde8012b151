"""The DreamBooth objective, min-SNR weights, learning-rate schedules and the stream of pictures."""

import pytest
import tiny_dreambooth as tiny
import torch
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler

from likeness.dreambooth.losses import dreambooth_loss, lr_factor, min_snr_weights, training_target
from likeness.dreambooth.settings import LR_SCHEDULERS
from likeness.dreambooth.stream import Stream
from likeness.dreambooth.trainable import prepare
from likeness.models import load_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


def test_total_is_the_sum_of_the_two_means():
    pred, target = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
    total, instance, prior = dreambooth_loss(pred, target, 2, 0.5)
    assert torch.allclose(instance, torch.nn.functional.mse_loss(pred[:2], target[:2]))
    assert torch.allclose(prior, torch.nn.functional.mse_loss(pred[2:], target[2:]))
    assert torch.allclose(total, instance + 0.5 * prior)


def test_without_class_rows_there_is_no_prior():
    pred, target = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 2, 2)
    total, instance, prior = dreambooth_loss(pred, target, 2, 1.0)
    assert total == instance and prior == 0


def test_each_half_is_weighted_by_its_own_timesteps():
    """Weights of 2B rows broadcast over B losses would mix the class timestep in (diffusers #5791)."""
    alphas = DDPMScheduler(beta_schedule="scaled_linear").alphas_cumprod
    pred, target = torch.randn(2, 4, 2, 2), torch.randn(2, 4, 2, 2)
    seen = []
    for class_timestep in (5, 900):
        weights = min_snr_weights(alphas, torch.tensor([100, class_timestep]), 5.0, "epsilon")
        seen.append(dreambooth_loss(pred, target, 1, 1.0, weights))
    assert seen[0][1] == seen[1][1], "the instance loss must not depend on the class sample's timestep"
    assert seen[0][2] != seen[1][2], "the prior term must be weighted too"
    many = torch.arange(0, 1000, 125)
    weights = min_snr_weights(alphas, many, 5.0, "epsilon")
    rows = torch.randn(8, 4, 2, 2)
    _, instance, prior = dreambooth_loss(rows, torch.zeros_like(rows), 4, 1.0, weights)
    per_row = rows.square().mean((1, 2, 3)) * weights
    assert torch.allclose(instance, per_row[:4].mean()) and torch.allclose(prior, per_row[4:].mean())


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_min_snr_is_the_published_formula(kind):
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", prediction_type=kind)
    timesteps = torch.tensor([0, 10, 300, 999])
    alphas = scheduler.alphas_cumprod[timesteps]
    snr = alphas / (1 - alphas)
    wanted = torch.minimum(snr, torch.tensor(5.0)) / (snr if kind == "epsilon" else snr + 1)
    found = min_snr_weights(scheduler.alphas_cumprod, timesteps, 5.0, kind)
    assert torch.allclose(found, wanted, rtol=1e-4)
    assert found[-1] == pytest.approx(1.0 if kind == "epsilon" else (snr / (snr + 1))[-1].item(), rel=1e-4)


def test_v_target_gives_the_clean_latents_back():
    scheduler = DDPMScheduler(prediction_type="v_prediction")
    latents, noise, timesteps = torch.randn(2, 4, 2, 2), torch.randn(2, 4, 2, 2), torch.tensor([20, 700])
    velocity = training_target(scheduler, latents, noise, timesteps)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    alphas = scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    assert torch.allclose(alphas.sqrt() * noisy - (1 - alphas).sqrt() * velocity, latents, atol=1e-5)


@pytest.mark.parametrize("rate", [1e-6, 5e-4])
@pytest.mark.parametrize("name", LR_SCHEDULERS)
def test_schedules_agree_with_diffusers(name, rate):
    warmup = 0 if name == "constant" else 3
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    theirs = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=20)
    for step in range(21):  # also the one after the last, at which the decays are over
        wanted = optimizer.param_groups[0]["lr"]
        assert rate * lr_factor(name, step, 20, warmup, rate) == pytest.approx(wanted, rel=1e-9, abs=1e-15)
        optimizer.step()
        theirs.step()
    ends = {"linear": 0.0, "cosine": 0.0, "polynomial": 1e-7}
    assert wanted == pytest.approx(ends.get(name, rate), abs=1e-15)


def test_subjects_take_turns_and_every_epoch_shows_every_photo():
    stream = Stream([3, 5], [4, 4], variants=1, batch=2, seed=0)
    rows = [row for step in range(15) for row in stream.instance_rows(stream.positions(step, 0, 1))]
    assert sum(row < 3 for row in rows) == 15 and sum(row >= 3 for row in rows) == 15
    assert sorted(rows[0:6:2]) == [0, 1, 2] and sorted(rows[1:11:2]) == [3, 4, 5, 6, 7]
    classes = stream.class_rows(range(4))
    assert [row < 4 for row in classes] == [True, False, True, False], "class picture of the same subject"


def test_processes_share_one_stream():
    stream = Stream([7], [], variants=2, batch=1, seed=3)
    wide = Stream([7], [], variants=2, batch=2, seed=3)
    for step in range(9):
        split = [stream.instance_rows(stream.positions(step, rank, 2))[0] for rank in (0, 1)]
        assert split == wide.instance_rows(wide.positions(step, 0, 1))


def logged(out, **options) -> list[dict[str, float]]:
    """The numbers a run reports at each of its steps."""
    events = []
    tiny.train_tiny(out, on_event=events.append, validation_every=0, checkpoint_every=0, **options)
    return [event.values for event in events if event.kind == "log"]


def test_a_run_trains_on_the_weighted_sum_and_warms_up(tmp_path):
    rows = logged(tmp_path / "run", prior_loss_weight=0.3, lr_warmup_steps=3, num_train_steps=5)
    for row in rows:
        assert row["train/loss_prior"] > 0
        assert row["train/loss"] == pytest.approx(row["train/loss_instance"] + 0.3 * row["train/loss_prior"], rel=1e-5)
    assert [row["train/lr"] for row in rows] == pytest.approx([0.0, 1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3])


def test_a_run_weights_its_losses_by_min_snr(tmp_path):
    """A gamma below every signal-to-noise ratio shrinks each row of the same first step, to a fifth at most."""
    plain, weighted = (
        logged(tmp_path / name, num_train_steps=1, snr_gamma=gamma)[0] for name, gamma in (("a", None), ("b", 1e-3))
    )
    for name in ("train/loss_instance", "train/loss_prior"):
        assert weighted[name] < 0.25 * plain[name], name


def test_the_optimizer_is_the_one_asked_for():
    pipe = load_pipeline(tiny.source(tiny.root() / "model"))
    settings = tiny.settings(
        adam_beta1=0.8, adam_beta2=0.9, adam_epsilon=1e-6, adam_weight_decay=0.1, learning_rate=2e-3,
        train_text_encoder=True, text_encoder_learning_rate=3e-3,
    )  # fmt: skip
    optimizer = prepare(pipe, settings, [], torch.device("cpu"), torch.float32).optimizer
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [group["lr"] for group in optimizer.param_groups] == [2e-3, 3e-3]
    for group in optimizer.param_groups:
        assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.8, 0.9), 1e-6, 0.1)
