"""The embedded CLIP: a small transformers.CLIPModel trained on the drawn world (Radford et al. 2021, sec. 2).

Its text tower starts the text encoder of the diffusion model. Linear heads that name the asked factors are
trained beside the contrastive loss and thrown away.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from likeness.paperdoll import world
from likeness.paperdoll.checkpoints import Loop
from likeness.paperdoll.dataset import SIZE, Dataset
from likeness.paperdoll.presets import Preset
from likeness.paperdoll.tokenizer import POSITIONS, load_tokenizer

PATCH = 16
END_NORM = 1e4  # of the end token in the diffusion model; the words have about 0.25
ASKED = {**{name: len(values) for name, values in world.CATEGORICAL.items()}, "who": len(world.CLASSES)}
FACTOR_WEIGHT = 0.5  # of the throw-away heads (guess)


def build_clip(preset: Preset, tokenizer):
    from transformers import CLIPConfig, CLIPModel

    width, heads = preset.clip_width, max(2, preset.clip_width // 32)
    tower = {
        "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": preset.clip_layers,
        "num_attention_heads": heads, "projection_dim": width, "attention_dropout": 0.0,
    }  # fmt: skip
    text = tower | {
        "vocab_size": len(tokenizer), "max_position_embeddings": POSITIONS,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = tower | {"image_size": SIZE, "patch_size": PATCH}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width))


class Taught(nn.Module):
    """CLIP plus the heads that are not shipped."""

    def __init__(self, clip):
        super().__init__()
        self.clip = clip
        width = clip.config.projection_dim
        self.image_heads = nn.ModuleDict({name: nn.Linear(width, k) for name, k in ASKED.items()})
        self.text_heads = nn.ModuleDict({name: nn.Linear(width, k) for name, k in ASKED.items()})

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        vision = self.clip.vision_model(pixel_values).pooler_output
        text = self.clip.text_model(input_ids).pooler_output
        return self.clip.visual_projection(vision), self.clip.text_projection(text)


def trimmed(tokens: Tensor, end: int) -> Tensor:
    """Cut padding that no row needs; the causal text tower never sees it."""
    longest = int((tokens == end).int().argmax(1).max()) + 1
    return tokens[:, :longest]


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """Return the symmetric InfoNCE loss and the share of captions retrieved.

    `asked` (n, factors): rows that ask for the same thing are not each other's negatives.
    """
    logits = scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    same = (asked[:, None] == asked[None]).all(-1)
    same.fill_diagonal_(False)
    logits = logits.masked_fill(same, float("-inf"))
    target = torch.arange(len(image), device=image.device)
    loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    return loss, (logits.argmax(1) == target).float().mean()


def train_clip(data: Dataset, preset: Preset, loop: Loop, device: str, tokenizer_dir: Path):
    """Train (or continue) the embedded CLIP and return it in evaluation mode."""
    tokenizer = load_tokenizer(tokenizer_dir)
    model = Taught(build_clip(preset, tokenizer)).to(device)

    def loss_at(step: int, rng: torch.Generator):
        indices = data.choose(loop.batch, rng)
        images = (data.images(indices).to(device) - 0.5) / 0.5
        tokens = trimmed(data.caption_tokens(indices, rng), tokenizer.eos_token_id).to(device)
        image, text = model(images, tokens)
        labels = {name: data.labels[name][indices].to(device) for name in ASKED}
        scale = model.clip.logit_scale.clamp(max=4.6).exp()
        loss, found = contrastive_loss(image, text, scale, torch.stack(list(labels.values()), 1))
        factors = sum(
            F.cross_entropy(heads[name](F.normalize(embeds, dim=-1) * 8), labels[name])
            for heads, embeds in ((model.image_heads, image), (model.text_heads, text))
            for name in ASKED
        ) / (2 * len(ASKED))
        food = (model.image_heads["food"](F.normalize(image, dim=-1) * 8).argmax(1) == labels["food"]).float()
        values = {"found": found.item(), "factors": factors.item(), "food": food.mean().item()}
        return loss + FACTOR_WEIGHT * factors * len(ASKED), values

    loop.run(model, loss_at)
    return model.clip.eval()


def text_encoder_from(clip):
    """Return a CLIPTextModel that starts as the CLIP's text tower, in which every word speaks for itself alone.

    Contrastive training gathers the sentence in the end token, and a UNet this small then reads nothing else: the
    maps of the words, which Prompt-to-Prompt edits, decide nothing (measured: with all words blanked it drew the
    same). So what layers pass from token to token starts at zero, and an embedding of END_NORM keeps the end token
    and the padding, which repeats it, at one constant. Stable Diffusion's encoder mixes its words.
    """
    from transformers import CLIPTextModel

    encoder = CLIPTextModel(clip.config.text_config)
    weights = clip.text_model.state_dict()
    if next(iter(encoder.state_dict())).startswith("text_model."):  # transformers before 5.6
        weights = {f"text_model.{key}": value for key, value in weights.items()}
    encoder.load_state_dict(weights)
    with torch.no_grad():
        end = encoder.get_input_embeddings().weight[clip.config.text_config.eos_token_id]
        end.mul_(END_NORM / end.norm())
        for name, parameter in encoder.named_parameters():
            if ".self_attn.out_proj." in name:
                parameter.zero_()
    return encoder


def save_clip(clip, tokenizer, folder: Path) -> None:
    """Write a folder that CLIPModel and CLIPProcessor load."""
    from transformers import CLIPImageProcessor, CLIPProcessor

    processor = CLIPImageProcessor(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE},
        image_mean=[0.5] * 3, image_std=[0.5] * 3,
    )  # fmt: skip
    clip.save_pretrained(folder)
    CLIPProcessor(image_processor=processor, tokenizer=tokenizer).save_pretrained(folder)


@torch.no_grad()
def embed(clip, tokenizer, images: Tensor, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Return unit image and text embeddings; images (n, 3, 128, 128) in [0, 1]."""
    from likeness.paperdoll.tokenizer import encode

    device = clip.logit_scale.device
    tokens = encode(tokenizer, captions).to(device)
    image = clip.visual_projection(clip.vision_model((images.to(device) - 0.5) / 0.5).pooler_output)
    text = clip.text_projection(clip.text_model(tokens).pooler_output)
    return F.normalize(image, dim=-1).cpu(), F.normalize(text, dim=-1).cpu()
