"""Fine-tuning some layers of a tiny Stable Diffusion: cross attention alone, the identifier's tokens alone."""

import pytest
import tiny_dreambooth as tiny
import torch

from likeness.errors import InputError
from likeness.models import load_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    """A finished run that trains cross attention and the identifier's tokens alone, and the grids it showed."""
    out, shown = tmp_path_factory.mktemp("layers") / "run", []
    options = {"unet_layers": "crossattn", "text_encoder_layers": "identifier", "train_text_encoder": True}
    options |= {"ema_decay": 0.5, "text_encoder_learning_rate": 1e-2, "sample_every": 6, "validation_every": 0}
    tiny.train_tiny(out, probe_samples=lambda s: shown.append(s) or {}, **options)
    return out, shown, options


def changed(out, part: str) -> dict[str, torch.Tensor]:
    """Where the tensors of a saved part differ from the base model's."""
    base, trained = tiny.weights(tiny.root() / "model", part), tiny.weights(out, part)
    return {name: trained[name] != base[name] for name in base if not torch.equal(trained[name], base[name])}


def test_cross_attention_alone_is_trained_where_asked(layers, tmp_path):
    out, _, options = layers
    names = set(changed(out, "unet"))
    assert names == {name for name in tiny.weights(out) if ".attn2." in name}
    assert not changed(out, "vae")
    tiny.train_tiny(tmp_path / "kv", **options | {"unet_layers": "crossattn_kv", "num_train_steps": 2})
    wanted = {name for name in names if ".to_k." in name or ".to_v." in name}
    assert set(changed(tmp_path / "kv", "unet")) == wanted


def test_the_identifiers_tokens_alone_are_trained_where_asked(layers):
    """Every other word keeps its embedding and the text encoder its layers; the saved model draws what was shown."""
    out, shown, _ = layers
    differs = changed(out, "text_encoder")
    tokens = load_pipeline(tiny.source(out / "model")).tokenizer("tuki", add_special_tokens=False).input_ids
    assert list(differs) == ["embeddings.token_embedding.weight"]
    assert differs["embeddings.token_embedding.weight"].any(1).nonzero().flatten().tolist() == sorted(tokens)
    assert torch.allclose(tiny.pixels(shown[-1].images), tiny.grid(out / "model"), atol=1e-2)


def test_an_identifier_that_shares_a_token_with_its_class_cannot_be_trained_alone(tmp_path):
    concept = tiny.concept(tiny.root() / "photos", identifier="wan")
    with pytest.raises(InputError, match=r"would train 'a', 'n</w>', which 'wan' shares with its class word 'man'"):
        tiny.train_tiny(
            tmp_path / "run", concepts=[concept], text_encoder_layers="identifier", train_text_encoder=True
        )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"unet_layers": "half"}, "unet_layers='half' is unknown"),
        ({"method": "lora", "unet_layers": "crossattn"}, "unet_layers=crossattn does nothing with method=lora"),
        ({"text_encoder_layers": "identifier"}, "text_encoder_layers=identifier needs train_text_encoder=true"),
    ],
)
def test_layers_that_cannot_be_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        tiny.settings(**options)
