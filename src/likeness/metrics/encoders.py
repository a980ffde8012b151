"""CLIP, DINO and LPIPS with named weights; images are float (n, 3, h, w) in [0, 1].

Shapes: n pictures, t tokens (the class token first, then patches row by row), d dimensions.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from likeness.metrics.backbones import lpips_file

STILL = 1e-3  # embeddings nearer than this have no direction between them
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KEYS = ("k_proj", ".key")  # names of the key projection in transformers' attention modules


class Clip:
    """A transformers CLIPModel with its processor; embeddings have length 1."""

    def __init__(self, model: nn.Module, processor: Any, device: str) -> None:
        self.model, self.processor, self.device = model.eval().to(device), processor, device
        self._texts: dict[str, Tensor] = {}

    @classmethod
    def load(cls, source: str | Path, device: str) -> Clip:
        """Load from a folder or from the local cache of a hub repository, never from the network."""
        from transformers import CLIPModel, CLIPProcessor

        model = CLIPModel.from_pretrained(source, local_files_only=True)
        return cls(model, CLIPProcessor.from_pretrained(source, local_files_only=True), device)

    def images(self, images: Tensor) -> Tensor:
        """Embed images as (n, d)."""
        return self.images_and_keys(images)[0]

    @torch.no_grad()
    def images_and_keys(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings (n, d) and the keys (n, t, d) of the vision tower's last layer, from one pass."""
        pictures = [(image.clamp(0, 1) * 255).round().byte().cpu() for image in images]
        pixels = self.processor.image_processor(images=pictures, return_tensors="pt").pixel_values
        with Listening(self.model.vision_model) as heard:
            features = pooled(self.model.get_image_features(pixel_values=pixels.to(self.device)))
        return F.normalize(features, dim=-1).cpu(), heard.keys.cpu()

    @torch.no_grad()
    def text(self, prompt: str) -> Tensor:
        """Embed a prompt as (d,); what lies behind CLIP's 77 tokens is cut, as the score is defined."""
        if prompt not in self._texts:
            longest = self.model.config.text_config.max_position_embeddings
            tokens = self.processor.tokenizer(
                [prompt], return_tensors="pt", padding=True, truncation=True, max_length=longest
            )
            features = pooled(self.model.get_text_features(**tokens.to(self.device)))
            self._texts[prompt] = F.normalize(features, dim=-1)[0].cpu()
        return self._texts[prompt]

    @property
    def mean_colour(self) -> Tensor:
        """Return the colour (3, 1, 1) that the processor turns into zeros."""
        return torch.tensor(self.processor.image_processor.image_mean).view(3, 1, 1)


class Dino:
    """A transformers ViTModel trained by DINO (Caron et al. 2021)."""

    def __init__(self, model: nn.Module, device: str) -> None:
        self.model, self.device = model.eval().to(device), device

    @classmethod
    def load(cls, source: str | Path, device: str) -> Dino:
        """Load from a folder or from the local cache of a hub repository, never from the network."""
        from transformers import ViTModel

        return cls(ViTModel.from_pretrained(source, local_files_only=True, add_pooling_layer=False), device)

    @property
    def size(self) -> int:
        return self.model.config.image_size

    def keys(self, images: Tensor) -> Tensor:
        """Return the last layer's keys (n, t, d) of pictures scaled to the model's size (224 px)."""
        return self.keys_of(imagenet(scaled(images.to(self.device), self.size)))

    @torch.no_grad()
    def keys_of(self, pixel_values: Tensor) -> Tensor:
        """Return the last layer's keys (n, t, d) of pixels as the model takes them."""
        with Listening(self.model) as heard:
            self.model(pixel_values=pixel_values.to(self.device), interpolate_pos_encoding=True)
        return heard.keys.cpu()

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """Embed images by the class token, as (n, d) of length 1; centre crop 7/8, as DINO is evaluated."""
        large = scaled(images.to(self.device), round(self.size * 8 / 7), mode="bicubic").clamp(0, 1)
        top, left = ((side - self.size) // 2 for side in large.shape[-2:])
        pixels = imagenet(large[..., top : top + self.size, left : left + self.size])
        return F.normalize(self.model(pixel_values=pixels).last_hidden_state[:, 0], dim=-1).cpu()


class Listening:
    """Context manager: keep what the last attention layer's key projection returns, as `keys` (n, t, d)."""

    keys: Tensor

    def __init__(self, tower: nn.Module) -> None:
        found = [m for name, m in tower.named_modules() if isinstance(m, nn.Linear) and name.endswith(KEYS)]
        if not found:
            raise RuntimeError(f"{type(tower).__name__} has no key projection named {' or '.join(KEYS)}.")
        self.layer = found[-1]

    def __enter__(self) -> Listening:
        self.hook = self.layer.register_forward_hook(lambda _module, _inputs, output: setattr(self, "keys", output))
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()


class Lpips:
    """The distance of `lpips.LPIPS` in two halves, so that a picture is encoded once and compared often."""

    def __init__(self, network: nn.Module, device: str) -> None:
        self.network, self.device = network.eval().requires_grad_(False).to(device), device

    @torch.no_grad()
    def features(self, images: Tensor) -> list[Tensor]:
        """Return unit-length features (n, channels, h, w) of every layer."""
        layers = self.network.net(self.network.scaling_layer(images.to(self.device) * 2 - 1))
        return [layer / (layer.square().sum(1, keepdim=True).sqrt() + 1e-10) for layer in layers]

    @torch.no_grad()
    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        """Return (n,) (Zhang et al. 2018, eq. 1)."""
        return sum(layer.mean((1, 2, 3)) for layer in self._layers(a, b)).cpu()

    @torch.no_grad()
    def map(self, a: list[Tensor], b: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Return where the distance lies (n, h, w), as `lpips` with spatial=True; its mean is near the distance."""
        layers = self._layers(a, b)
        return sum(F.interpolate(layer, size, mode="bilinear", align_corners=False) for layer in layers)[:, 0].cpu()

    def _layers(self, a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
        squares = [(x - y).square() for x, y in zip(a, b, strict=True)]
        if not self.network.lpips:  # no learned weights
            return [square.sum(1, keepdim=True) for square in squares]
        return [weigh(square) for weigh, square in zip(self.network.lins, squares, strict=True)]


def pooled(output: Any) -> Tensor:
    """Return the features themselves; transformers 5 wraps them."""
    return output if torch.is_tensor(output) else output.pooler_output


def direction(start: Tensor, end: Tensor) -> Tensor:
    """Return the unit vectors from start to end (..., d); NaN where they are the same."""
    step = end - start
    length = step.norm(dim=-1, keepdim=True)
    return torch.where(length > STILL, step / length.clamp_min(STILL), torch.full_like(step, torch.nan))


def scaled(images: Tensor, side: int, *, mode: str = "bilinear") -> Tensor:
    """Return pictures whose shorter side is `side`."""
    height, width = images.shape[-2:]
    size = tuple(max(side, round(s * side / min(height, width))) for s in (height, width))
    if size == (height, width):
        return images
    return F.interpolate(images, size, mode=mode, align_corners=False, antialias=True)


def imagenet(pixels: Tensor) -> Tensor:
    """Return (pixels - mean) / deviation, by channel."""
    mean, deviation = (pixels.new_tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels - mean) / deviation


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


def embedded_lpips(features: nn.Sequential, device: str = "cpu") -> Lpips:
    """Return `lpips` over the probe's trunk: no learned weights, all channels alike (Zhang et al. 2018, eq. 1)."""
    network = _lpips(lpips=False)
    network.net, network.scaling_layer = Trunk(features), nn.Identity()  # the probe takes [-1, 1] as it is
    return Lpips(network, device)


def standard_lpips(net: str, device: str = "cpu") -> Lpips:
    """Return `lpips` with its learned weights over torchvision's ImageNet trunk, from the local cache."""
    network = _lpips(net=net)
    stored = torch.load(lpips_file(net), weights_only=True, map_location="cpu")
    features = {k.removeprefix("features."): v for k, v in stored.items() if k.startswith("features.")}
    names = network.net.state_dict()
    network.net.load_state_dict({name: features[name.split(".", 1)[1]] for name in names})
    return Lpips(network, device)


def _lpips(**options: Any) -> nn.Module:
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's renamed arguments
        return lpips.LPIPS(pnet_rand=True, verbose=False, **options)
