"""Random-weight backbones at tiny sizes, laid out where the metrics look for the real ones."""

import hashlib

import torch

from likeness.metrics.encoders import pooled

PROMPTS = ("photo of a man eating a burger", "photo of a man eating a cake")


class PlainFeatures(torch.nn.Module):
    """A CLIPModel for torchmetrics, which expects plain tensors where transformers 5 returns them wrapped."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def get_image_features(self, *args, **kwargs):
        return pooled(self.model.get_image_features(*args, **kwargs))

    def get_text_features(self, *args, **kwargs):
        return pooled(self.model.get_text_features(*args, **kwargs))


def plain(clip):
    """Return what torchmetrics' clip_score takes: model and processor."""
    return PlainFeatures(clip.model), clip.processor


def tiny_clip(folder):
    """Write the tiny preset's CLIP, its processor and tokenizer."""
    from likeness.paperdoll.clip import build_clip, save_clip
    from likeness.paperdoll.presets import PRESETS
    from likeness.paperdoll.tokenizer import load_tokenizer, train_tokenizer

    train_tokenizer([*PROMPTS] * 20, folder.parent / "tokenizer")
    tokenizer = load_tokenizer(folder.parent / "tokenizer")
    torch.manual_seed(0)
    save_clip(build_clip(PRESETS["tiny"], tokenizer), tokenizer, folder)


def tiny_dino(folder, seed):
    """Write a ViTModel of 32 px in patches of 8."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)


def field_backbones(root, monkeypatch, *, nets=("squeeze",)):
    """Put tiny CLIP, DINO and LPIPS trunks into a Hugging Face and a torch cache under `root`, and use these."""
    import huggingface_hub.constants

    from likeness.metrics import backbones

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(root / "hub"))
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(root / "hub"), raising=False)  # before 5
    trunks(root, monkeypatch, nets)
    for number, repository in enumerate((backbones.DINO_STRUCTURE, backbones.DINO_SUBJECT, backbones.CLIP_REPOSITORY)):
        home = backbones.cache_folder(repository)
        commit = hashlib.sha1(repository.encode()).hexdigest()
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text(commit)
        snapshot = home / "snapshots" / commit
        if repository == backbones.CLIP_REPOSITORY:
            tiny_clip(snapshot)
        else:
            tiny_dino(snapshot, number)


def trunks(root, monkeypatch, nets):
    """Put random LPIPS trunks into a torch cache under `root`, and use it."""
    import torchvision

    from likeness.metrics import backbones

    monkeypatch.setenv("TORCH_HOME", str(root / "torch"))
    builders = {"squeeze": "squeezenet1_1", "alex": "alexnet", "vgg": "vgg16"}
    for net in nets:
        path = backbones.lpips_file(net)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        trunk = getattr(torchvision.models, builders[net])(weights=None).features
        torch.save({f"features.{name}": value for name, value in trunk.state_dict().items()}, path)
