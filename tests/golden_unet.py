"""The UNets of the golden samplings: random weights, drawn anew from their seeds to spare 22 MB of files."""

import hashlib
import json
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
SEEDS = {"unet_3_levels": 11, "unet_4_levels": 1}
SCALES = {".to_q.": 2.5, ".to_k.": 2.5, ".to_v.": 2.0, ".to_out.0.weight": 2.0}  # else attention is nearly uniform
DIGESTS = {
    "unet_3_levels": "1ede6b677349cc0125da81a1b7bce3b983fc20825f299f816b9323a3667f1347",
    "unet_4_levels": "1c3129ee3b44afd0472a8262b14f84334d84c0778fd4c68c31f518b54692509f",
}


def random_unet(name: str):
    """Draw a UNet as the one that the reference was measured on was drawn."""
    import torch
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEEDS[name])
        unet = UNet2DConditionModel.from_config(json.loads((GOLDEN / f"{name}.json").read_text())).eval()
    with torch.no_grad():
        for key, weight in unet.named_parameters():
            for part, scale in SCALES.items():
                if part in key:
                    weight *= scale
    return unet


def need_the_same_weights(name: str, unet) -> None:
    """Skip a test whose golden numbers are of other weights than this machine's generator gives."""
    digest = hashlib.sha256()
    for key, weight in sorted(unet.state_dict().items()):
        digest.update(key.encode() + weight.detach().numpy().tobytes())
    if digest.hexdigest() != DIGESTS[name]:
        pytest.skip(f"torch draws other weights for {name} from the same seed here ({digest.hexdigest()[:12]})")
