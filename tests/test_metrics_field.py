"""The field's metrics and PIE-Bench's, on tiny random encoders, against computations written out here in numpy."""

import numpy as np
import pytest
import tiny_metrics
import torch
from scipy.ndimage import correlate1d

from likeness import metrics

PROMPTS = tiny_metrics.PROMPTS
SIDE = 48
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """metrics=pie, which holds everything that metrics=standard does."""
    with pytest.MonkeyPatch.context() as patch:
        tiny_metrics.field_backbones(tmp_path_factory.mktemp("field"), patch)
        yield metrics.build("pie")
        metrics.forget()


@pytest.fixture(scope="module")
def pictures():
    """Two smooth pictures, a change of each, and a mask that touches the border; pictures as uint8 (2, h, w, 3)."""
    rng = np.random.default_rng(0)
    rough = rng.random((2, 6, 6, 3)).repeat(SIDE // 6, 1).repeat(SIDE // 6, 2)
    source = np.round(rough * 255).astype(np.uint8)
    edited = np.clip(source + rng.normal(0, 25, source.shape), 0, 255).astype(np.uint8)
    mask = np.zeros((2, SIDE, SIDE), bool)
    mask[0, 8:30, 10:40] = mask[1, :20, 20:] = True
    return source, edited, mask


@pytest.fixture(scope="module")
def measured(suite, pictures):
    source, edited, mask = pictures
    return suite.measure(tensor(source), tensor(edited), *PROMPTS, {"local_blend": torch.from_numpy(mask)})


def tensor(pictures):
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def close(values, expected, *, rel=1e-4):
    np.testing.assert_allclose(np.asarray(values), expected, rtol=rel, atol=1e-6)


# Independent computations -------------------------------------------------------------------------------------------


def ssim_map(a, b):
    """SSIM of (h, w, 3) pictures in [0, 1] at every pixel, averaged over channels (Wang et al. 2004, eq. 13)."""
    window = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window /= window.sum()

    def blur(x):
        return correlate1d(correlate1d(x, window, 0, mode="mirror"), window, 1, mode="mirror")

    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    return (((2 * ma * mb + c1) * (2 * cov + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean(2)


def resized(picture, side, *, antialias):
    """Bilinear resize of a square (h, w, 3) picture, written as two matrices."""
    scale = len(picture) / side
    width = max(scale, 1.0) if antialias else 1.0
    centres = (np.arange(side) + 0.5) * scale - 0.5
    if not antialias:
        centres = np.clip(centres, 0, len(picture) - 1)
    weight = np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(len(picture))) / width)
    weight /= weight.sum(1, keepdims=True)
    return np.einsum("yi,xj,ijc->yxc", weight, weight, picture)


def vit_keys(model, pixels):
    """Keys (t, d) of the last layer of a transformers ViT, for normalised (h, w, 3) pixels of its own size."""
    state = {name: value.detach().double().numpy() for name, value in model.state_dict().items()}

    def get(ending, layer=None):
        aliases = {"k_proj": "attention.key", "q_proj": "attention.query", "v_proj": "attention.value",
                   "o_proj": "attention.output.dense", "fc1": "intermediate.dense", "fc2": "output.dense"}  # fmt: skip
        base, _, kind = ending.rpartition(".")
        found = [
            value
            for name, value in state.items()
            if any(name.endswith(f"{part}.{kind}") for part in {base, aliases.get(base, base)})
            and (layer is None or f"layer.{layer}." in name or f"layers.{layer}." in name)
        ]
        return found[-1] if base == "fc2" else found[0]

    def norm(x, name, layer):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * get(f"{name}.weight", layer) + get(f"{name}.bias", layer)

    def linear(x, name, layer):
        return x @ get(f"{name}.weight", layer).T + get(f"{name}.bias", layer)

    def gelu(x):
        from scipy.special import erf

        return x * (1 + erf(x / np.sqrt(2))) / 2

    patch, kernel = model.config.patch_size, get("projection.weight")
    rows = len(pixels) // patch
    patches = pixels.reshape(rows, patch, rows, patch, 3).transpose(0, 2, 4, 1, 3).reshape(rows * rows, -1)
    tokens = patches @ kernel.reshape(len(kernel), -1).T + get("projection.bias")
    x = np.concatenate([state["embeddings.cls_token"][0], tokens]) + state["embeddings.position_embeddings"][0]
    heads = model.config.num_attention_heads
    for layer in range(model.config.num_hidden_layers):
        h = norm(x, "layernorm_before", layer)
        q, k, v = (linear(h, name, layer) for name in ("q_proj", "k_proj", "v_proj"))
        if layer == model.config.num_hidden_layers - 1:
            return k
        q, k, v = (y.reshape(len(y), heads, -1).transpose(1, 0, 2) for y in (q, k, v))
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(x), -1)
        x = x + linear(mixed, "o_proj", layer)
        x = x + linear(gelu(linear(norm(x, "layernorm_after", layer), "fc1", layer)), "fc2", layer)


def self_similarity(keys):
    unit = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    return unit @ unit.T


def structure(dino, a, b, *, scale, antialias, tokens=slice(None)):
    """Mean squared difference of key self-similarities of two pictures of 0 to 255, divided by `scale` first."""
    maps = [
        self_similarity(
            vit_keys(dino.model, (resized(x / scale, dino.size, antialias=antialias) - MEAN) / DEVIATION)[tokens]
        )
        for x in (a.astype(float), b.astype(float))
    ]
    return np.mean((maps[0] - maps[1]) ** 2)


def lpips_layers(network, a, b):
    """Per-layer maps of Zhang et al. 2018, eq. 1, for (h, w, 3) pictures in [0, 1]; only the trunk is torch's."""
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    features = []
    for picture in (a, b):
        pixels = torch.from_numpy(((picture * 2 - 1 - shift) / scale).transpose(2, 0, 1)[None].astype(np.float32))
        with torch.no_grad():
            layers = [layer[0].double().numpy() for layer in network.net(pixels)]
        features.append([layer / (np.linalg.norm(layer, axis=0) + 1e-10) for layer in layers])
    weights = [lin.model[-1].weight.detach().double().numpy().reshape(-1, 1, 1) for lin in network.lins]
    return [(w * (x - y) ** 2).sum(0) for w, x, y in zip(weights, *features, strict=True)]


def lpips_distance(network, a, b):
    return sum(layer.mean() for layer in lpips_layers(network, a, b))


def per_picture(function, source, edited):
    return np.array([function(a, b) for a, b in zip(source, edited, strict=True)])


# The corrected definitions ------------------------------------------------------------------------------------------


def test_whole_pictures(suite, pictures, measured):
    source, edited = (p.astype(float) / 255 for p in pictures[:2])
    close(measured["psnr"], per_picture(lambda a, b: -10 * np.log10(np.mean((a - b) ** 2)), source, edited))
    close(measured["ssim"], per_picture(lambda a, b: ssim_map(a, b).mean(), source, edited))
    close(measured["lpips"], per_picture(lambda a, b: lpips_distance(suite.lpips.network, a, b), source, edited))
    expected = per_picture(
        lambda a, b: structure(suite.dino, a, b, scale=255, antialias=True), pictures[0], pictures[1]
    )
    close(measured["dino_structure"], expected, rel=2e-3)


def test_outside_and_inside_count_their_own_pixels_only(suite, pictures, measured):
    source, edited = (p.astype(float) / 255 for p in pictures[:2])
    for side, region in (("inside", pictures[2]), ("outside", ~pictures[2])):
        both = list(zip(source, edited, region, strict=True))
        close(measured[f"psnr_{side}_local_blend"], [-10 * np.log10(np.mean((a - b)[m] ** 2)) for a, b, m in both])
        close(measured[f"ssim_{side}_local_blend"], [ssim_map(a, b)[m].mean() for a, b, m in both])
    share = pictures[2].mean((1, 2))
    parts = [measured[f"lpips_{side}_local_blend"].numpy() for side in ("inside", "outside")]
    whole = suite.lpips.network
    spatial = []
    whole.spatial = True
    with torch.no_grad():
        spatial = whole(tensor(pictures[0]) * 2 - 1, tensor(pictures[1]) * 2 - 1).mean((1, 2, 3)).numpy()
    whole.spatial = False
    close(share * parts[0] + (1 - share) * parts[1], spatial)


def test_structure_outside_uses_patches_wholly_outside(suite, pictures, measured):
    a, b, mask = (p[0] for p in pictures)
    grid = suite.dino.size // suite.dino.model.config.patch_size
    step = SIDE // grid
    free = [
        1 + row * grid + column
        for row in range(grid)
        for column in range(grid)
        if not mask[row * step : (row + 1) * step, column * step : (column + 1) * step].any()
    ]
    assert 2 <= len(free) < grid**2
    expected = structure(suite.dino, a, b, scale=255, antialias=True, tokens=free)
    close(measured["dino_structure_outside_local_blend"][:1], [expected], rel=2e-3)


def test_clip_inside_does_not_see_the_rest(suite, pictures, measured):
    source, edited, mask = pictures
    other = np.where(mask[..., None], edited, 255 - edited)
    again = suite.measure(tensor(source), tensor(other), *PROMPTS, {"local_blend": torch.from_numpy(mask)})
    name = "clip_t_inside_local_blend"
    close(again[name], measured[name].numpy())
    assert not np.allclose(again["clip_t"], measured["clip_t"], atol=1e-4)


def test_an_empty_region_has_no_number(suite, pictures):
    everything = torch.ones(2, SIDE, SIDE, dtype=torch.bool)
    values = suite.measure(tensor(pictures[0]), tensor(pictures[1]), *PROMPTS, {"attention": everything})
    outside = [value for name, value in values.items() if "_outside_" in name]
    assert len(outside) == 9 and all(value.isnan().all() for value in outside)
    close(values["psnr_inside_attention"], values["psnr"].numpy())


# PIE-Bench to the letter --------------------------------------------------------------------------------------------


def pie_parts(mask):
    """The benchmark's masks of the edited and the unedited part: border forced to 1."""
    edit = mask.astype(float)
    edit[[0, -1], :] = edit[:, [0, -1]] = 1
    return {"inside": edit[..., None], "outside": 1 - edit[..., None]}


def test_pie_structure_takes_0_to_255_without_antialiasing(suite, pictures, measured):
    expected = per_picture(lambda a, b: structure(suite.dino, a, b, scale=1, antialias=False), *pictures[:2])
    close(measured["pie_structure_x1e3"], 1000 * expected, rel=5e-3)
    assert not np.allclose(measured["pie_structure_x1e3"], 1000 * measured["dino_structure"], rtol=0.1)


def test_pie_structure_of_a_part_is_that_of_the_pictures_multiplied_by_its_mask(suite, pictures, measured):
    from likeness.metrics import definitions

    for side in ("inside", "outside"):
        parts = [pie_parts(mask)[side] for mask in pictures[2]]
        expected = [
            structure(suite.dino, a * part, b * part, scale=1, antialias=False)
            for a, b, part in zip(*pictures[:2], parts, strict=True)
        ]
        close(measured[f"pie_structure_x1e3_{side}_local_blend"], 1000 * np.array(expected), rel=5e-3)
    assert definitions.direction("pie_structure_x1e3_outside_local_blend") == "lower"
    assert definitions.direction("pie_structure_x1e3_inside_local_blend") == "neutral"
    assert "`pie_structure_x1e3`" in definitions.regional_table()


def test_pie_pixels_set_to_zero_count_as_equal(suite, pictures, measured):
    network = suite.lpips.network
    found = {"psnr": [], "mse_x1e4": [], "ssim_x1e2": [], "lpips_x1e3": []}
    for a, b, mask in zip(*pictures, strict=True):
        for part in (None, *pie_parts(mask).values()):
            x, y = (p.astype(float) / 255 * (1 if part is None else part) for p in (a, b))
            found["psnr"].append(10 * np.log10(1 / np.mean((x - y) ** 2)))
            found["mse_x1e4"].append(1e4 * np.mean((x - y) ** 2))
            found["ssim_x1e2"].append(100 * ssim_map(x, y).mean())
            found["lpips_x1e3"].append(1000 * lpips_distance(network, x, y))
    for name, values in found.items():
        keys = [f"pie_{name}", *(f"pie_{name}_{side}_local_blend" for side in ("inside", "outside"))]
        close(np.stack([measured[key].numpy() for key in keys], 1).flatten(), values, rel=1e-3)
    assert (measured["pie_psnr_outside_local_blend"] > measured["psnr_outside_local_blend"]).all()


def test_pie_clip_is_torchmetrics_clip_score_of_the_blackened_picture(suite, pictures, measured):
    from torchmetrics.functional.multimodal import clip_score

    masks = {"m": torch.from_numpy(pictures[2])}
    scores = []
    for sign in (1, -1):  # one of the two gives scores above 0
        with torch.no_grad():
            suite.clip.model.text_projection.weight.mul_(sign)
        suite.clip._texts.clear()
        values = suite.pie.measure(tensor(pictures[0]), tensor(pictures[1]), PROMPTS[1], masks)
        for index, (picture, mask) in enumerate(zip(*pictures[1:], strict=True)):
            for name, shown in (("pie_clip", picture), ("pie_clip_inside_m", picture * pie_parts(mask)["inside"])):
                pixels = torch.from_numpy(np.uint8(shown)).permute(2, 0, 1)
                with torch.no_grad():
                    theirs = clip_score(pixels, PROMPTS[1], lambda: tiny_metrics.plain(suite.clip))
                assert float(values[name][index]) == pytest.approx(float(theirs), abs=1e-3)
                scores.append(float(theirs))
    with torch.no_grad():
        suite.clip.model.text_projection.weight.mul_(-1)
    suite.clip._texts.clear()
    assert max(scores) > 1 and min(scores) == 0


def test_pie_of_equal_pictures_and_of_everything_edited(suite, pictures):
    same = suite.pie.measure(*[tensor(pictures[0])] * 2, PROMPTS[0], {"m": torch.ones(2, SIDE, SIDE)})
    assert same["pie_psnr"].isinf().all() and same["pie_psnr_outside_m"].isnan().all()
    assert (same["pie_lpips_x1e3"] == 0).all() and (same["pie_structure_x1e3"] == 0).all()


# The suites ---------------------------------------------------------------------------------------------------------


def test_every_name_says_what_it_was_measured_with(suite, measured):
    from likeness.metrics import definitions

    named = suite.described(measured)
    assert set(named["backbones"]) == set(named["directions"]) == set(measured)
    assert "dino-vitb8@" in named["backbones"]["pie_structure_x1e3"]
    assert "squeeze" in named["backbones"]["lpips_outside_local_blend"]
    assert named["directions"]["lpips_inside_local_blend"] == "neutral"
    assert named["directions"]["pie_clip_inside_local_blend"] == "higher"
    assert set(map(definitions.base_name, measured)) == set(suite.backbones) <= set(definitions.DEFINITIONS)


def test_a_sweep_in_chunks_measures_the_same(suite, pictures, measured, monkeypatch):
    from likeness.metrics import suite as module

    monkeypatch.setattr(module, "PIXELS_AT_ONCE", 1)
    masks = {"local_blend": torch.from_numpy(pictures[2])}
    again = suite.measure(tensor(pictures[0]), tensor(pictures[1]), *PROMPTS, masks)
    assert set(again) == set(measured)
    for name, value in measured.items():
        torch.testing.assert_close(again[name], value, atol=2e-4, rtol=1e-3, equal_nan=True)


@pytest.mark.parametrize("net", ["alex", "squeeze", pytest.param("vgg", marks=pytest.mark.slow)])
def test_lpips_is_the_packages_on_torchvisions_file(net, tmp_path, monkeypatch, pictures):
    import lpips

    from likeness.metrics.encoders import standard_lpips

    tiny_metrics.trunks(tmp_path, monkeypatch, (net,))
    ours = standard_lpips(net)
    theirs = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    theirs.net.load_state_dict(ours.network.net.state_dict())
    a, b = tensor(pictures[0]), tensor(pictures[1])
    with torch.no_grad():
        expected = theirs(a, b, normalize=True).flatten()
    torch.testing.assert_close(ours.distance(ours.features(a), ours.features(b)), expected, atol=1e-6, rtol=1e-4)
    stored = torch.load(tmp_path / "torch" / "hub" / "checkpoints" / ours_file(net), weights_only=True)
    assert torch.equal(ours.network.net.slice1[0].weight, stored["features.0.weight"])


def ours_file(net):
    from likeness.metrics.backbones import LPIPS_NETS

    return LPIPS_NETS[net]


def test_encoders_are_loaded_once(suite):
    again, standard = (
        metrics.build("pie", device="cpu", lpips_net="squeeze"),
        metrics.build("standard", lpips_net="squeeze"),
    )
    assert again is suite and standard.clip is suite.clip and standard.dino is suite.dino
    assert metrics.build_subject("pie").clip is suite.clip
