"""Pictures drawn on the way of a training: by a sampler of their own, large ones decoded one by one."""

import pytest
import tiny_dreambooth as tiny
import torch

from likeness.dreambooth.sampling import draw
from likeness.models import load_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")
NOISE = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5))
PROMPT = ["photo of tuki man"]


def picture(pipe) -> torch.Tensor:
    image = draw(pipe, PROMPT, NOISE, 3, 3.0)[0]
    return torch.tensor(list(image.tobytes())).float() / 255


def test_samples_do_not_depend_on_the_pipelines_sampler():
    from diffusers import PNDMScheduler

    pipe = load_pipeline(tiny.source(tiny.root() / "model"))
    wanted = picture(pipe)
    pipe.scheduler = PNDMScheduler.from_config(pipe.scheduler.config)
    assert torch.equal(picture(pipe), wanted) and isinstance(pipe.scheduler, PNDMScheduler)


@pytest.mark.parametrize(("limit", "alone"), [(16, True), (32, False)], ids=["large", "small"])
def test_large_pictures_are_decoded_one_by_one(limit, alone, tmp_path, monkeypatch):
    from likeness.dreambooth import loop, sampling

    monkeypatch.setattr(sampling, "DECODED_AT_ONCE", limit)
    decoded, real = set(), loop.check_pipeline

    def watch(pipe, run):
        pipe.vae.decoder.register_forward_hook(lambda module, args, output: decoded.add(len(args[0])))
        real(pipe, run)

    monkeypatch.setattr(loop, "check_pipeline", watch)
    tiny.train_tiny(tmp_path / "run", class_root=tmp_path / "class", num_train_steps=1, sample_every=1)
    assert decoded and (decoded == {1}) is alone
