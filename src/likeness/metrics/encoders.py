"""CLIP and LPIPS with named weights; images are float (n, 3, h, w) in [0, 1]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from likeness.metrics.backbones import lpips_file

STILL = 1e-3  # embeddings nearer than this have no direction between them


class Clip:
    """A transformers CLIPModel with its processor; embeddings have length 1."""

    def __init__(self, model: nn.Module, processor: Any, device: str) -> None:
        self.model, self.processor, self.device = model.eval().to(device), processor, device

    @classmethod
    def load(cls, source: str | Path, device: str) -> Clip:
        """Load from a folder or from the local cache of a hub repository, never from the network."""
        from transformers import CLIPModel, CLIPProcessor

        model = CLIPModel.from_pretrained(source, local_files_only=True)
        return cls(model, CLIPProcessor.from_pretrained(source, local_files_only=True), device)

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """Embed images as (n, d)."""
        pictures = [(image.clamp(0, 1) * 255).round().byte().cpu() for image in images]
        pixels = self.processor.image_processor(images=pictures, return_tensors="pt").pixel_values
        return F.normalize(pooled(self.model.get_image_features(pixel_values=pixels.to(self.device))), dim=-1).cpu()

    @torch.no_grad()
    def text(self, prompt: str) -> Tensor:
        """Embed a prompt as (d,); what lies behind CLIP's 77 tokens is cut, as the score is defined."""
        tokens = self.processor.tokenizer([prompt], return_tensors="pt", padding=True, truncation=True)
        features = pooled(self.model.get_text_features(**tokens.to(self.device)))
        return F.normalize(features, dim=-1)[0].cpu()


def pooled(output: Any) -> Tensor:
    """Return the features themselves; transformers 5 wraps them."""
    return output if torch.is_tensor(output) else output.pooler_output


def direction(start: Tensor, end: Tensor) -> Tensor:
    """Return the unit vectors from start to end (..., d); NaN where they are the same."""
    step = end - start
    length = step.norm(dim=-1, keepdim=True)
    return torch.where(length > STILL, step / length.clamp_min(STILL), torch.full_like(step, torch.nan))


class Trunk(nn.Module):
    """An AlexNet-shaped `features` as LPIPS reads it: the five ReLU outputs."""

    def __init__(self, features: nn.Sequential) -> None:
        super().__init__()
        self.features = features

    def forward(self, images: Tensor) -> list[Tensor]:
        outputs = []
        for layer in self.features:
            images = layer(images)
            if isinstance(layer, nn.ReLU):
                outputs.append(images)
        return outputs


def embedded_lpips(features: nn.Sequential) -> nn.Module:
    """Return `lpips` over the probe's trunk: no learned weights, all channels alike (Zhang et al. 2018, eq. 1)."""
    distance = _lpips(lpips=False)
    distance.net, distance.scaling_layer = Trunk(features), nn.Identity()  # the probe takes [-1, 1] as it is
    return distance.eval()


def standard_lpips(net: str) -> nn.Module:
    """Return `lpips` with its learned weights over torchvision's ImageNet trunk, from the local cache."""
    distance = _lpips(net=net)
    stored = torch.load(lpips_file(net), weights_only=True, map_location="cpu")
    features = {k.removeprefix("features."): v for k, v in stored.items() if k.startswith("features.")}
    names = distance.net.state_dict()
    distance.net.load_state_dict({name: features[name.split(".", 1)[1]] for name in names})
    return distance.eval()


def _lpips(**options: Any) -> nn.Module:
    import warnings

    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's renamed arguments
        return lpips.LPIPS(pnet_rand=True, verbose=False, **options).requires_grad_(False)
