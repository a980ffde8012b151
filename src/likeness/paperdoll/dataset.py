"""Draw the pretraining pictures once: uint8 pictures, labels and captions in memory-mapped files.

Picture i depends on (seed, i) alone; an interrupted drawing continues with the chunks that are missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from likeness.paperdoll import world
from likeness.paperdoll.captions import caption
from likeness.paperdoll.checkpoints import generator, write_atomic, write_json

SIZE, CHUNK = 128, 250
LABELS = (*world.CATEGORICAL, "who", *world.CONTINUOUS)
Sampler = Callable[[np.random.Generator], world.Factors]
NONSENSE = 0.15  # share of captions that carry a neutral nonsense word


@dataclass
class Dataset:
    """The drawn pictures; `labels[name]` holds class indices or world units, one row per picture."""

    folder: Path
    pictures: np.ndarray  # (n, 128, 128, 3) uint8, memory-mapped
    labels: dict[str, Tensor]
    identity: Tensor  # (n, identity dimension)
    captions: list[list[str]]
    digest: str
    tokens: Tensor | None = None  # (n, captions, 77)
    cache: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pictures)

    def images(self, indices: Tensor) -> Tensor:
        """Return float pictures (n, 3, 128, 128) in [0, 1]."""
        chosen = torch.from_numpy(np.stack([self.pictures[i] for i in indices.tolist()]))
        return chosen.permute(0, 3, 1, 2).float().div_(255)

    def choose(self, count: int, rng: torch.Generator) -> Tensor:
        return torch.randint(len(self), (count,), generator=rng)

    def scaled(self, indices: Tensor) -> Tensor:
        """Return the continuous factors (n, k) of these pictures, scaled from their range to [-1, 1]."""
        ranges = world.CONTINUOUS.items()
        return torch.stack([(self.labels[k][indices] - lo) / (hi - lo) * 2 - 1 for k, (_, lo, hi) in ranges], 1)

    def caption_tokens(self, indices: Tensor, rng: torch.Generator) -> Tensor:
        """Return token ids (n, 77) of one caption of each picture."""
        which = torch.randint(self.tokens.shape[1], (len(indices),), generator=rng)
        return self.tokens[indices, which].long()


def pretraining_factors(rng: np.random.Generator) -> world.Factors:
    """Sample a picture's factors; small, late-learnt ones (food, named people) are drawn more often."""
    fixed: dict[str, object] = {}
    if rng.random() < 0.35:
        fixed["food"] = world.FOODS[1 + int(rng.integers(len(world.FOODS) - 1))]
    if rng.random() < 0.35:
        fixed["who"] = world.CLASSES[int(rng.integers(len(world.CLASSES)))]
    return world.sample_factors(rng, **fixed)


def label_row(factors: world.Factors) -> list[float]:
    labels = {**factors.labels(), "who": world.CLASSES.index(factors.who)}
    return [float(labels[name]) for name in LABELS]


def draw_chunk(task: tuple[Path, Sampler, int, int, int, int]) -> int:
    """Draw pictures [first, first + count) into the memory map and write their labels and captions."""
    folder, sample, seed, captions, first, count = task
    pictures = np.load(folder / "pictures.npy", mmap_mode="r+")
    rows, identities, texts = [], [], []
    for index in range(first, first + count):
        rng = np.random.default_rng((seed, index))
        factors = sample(rng)
        pictures[index] = world.render(factors, SIZE)
        rows.append(label_row(factors))
        identities.append([float(v) for v in factors.identity.vector()])
        texts.append([caption(factors, rng, nonsense=NONSENSE) for _ in range(captions)])
    pictures.flush()
    write_json(folder / "chunks" / f"{first:07d}.json", {"labels": rows, "identity": identities, "captions": texts})
    return count


def draw(
    folder: Path, *, seed: int, pictures: int, captions: int, workers: int = 2, sample: Sampler = pretraining_factors
) -> None:
    """Draw what is missing of `pictures` pictures into `folder`; does nothing if all are there.

    `sample` draws a picture's factors; a function of a module, since other processes call it.
    """
    from multiprocessing import get_context

    from tqdm import tqdm

    done = folder / "data.json"
    if done.is_file() and json.loads(done.read_text())["pictures"] == pictures:
        return
    (folder / "chunks").mkdir(parents=True, exist_ok=True)
    target = folder / "pictures.npy"
    shape = (pictures, SIZE, SIZE, 3)
    if not target.is_file() or np.load(target, mmap_mode="r").shape != shape:
        np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=shape).flush()
    tasks = [
        (folder, sample, seed, captions, first, min(CHUNK, pictures - first))
        for first in range(0, pictures, CHUNK)
        if not (folder / "chunks" / f"{first:07d}.json").is_file()
    ]
    bar = tqdm(total=pictures, initial=pictures - sum(t[-1] for t in tasks), desc="data", mininterval=5.0)
    if workers > 1 and len(tasks) > 1:
        with get_context("spawn").Pool(workers) as pool:
            for count in pool.imap_unordered(draw_chunk, tasks):
                bar.update(count)
    else:
        for task in tasks:
            bar.update(draw_chunk(task))
    bar.close()
    gather(folder, seed, pictures)


def gather(folder: Path, seed: int, pictures: int) -> None:
    """Collect the chunks into labels.npy, identity.npy, captions.json and the data's hash."""
    parts = [json.loads(path.read_text()) for path in sorted((folder / "chunks").glob("*.json"))]
    labels = np.array([row for part in parts for row in part["labels"]], np.float32)
    identity = np.array([row for part in parts for row in part["identity"]], np.float32)
    captions = [row for part in parts for row in part["captions"]]
    assert len(labels) == pictures, "a chunk of the data is missing"
    digest = hashlib.sha256(labels.tobytes() + json.dumps(captions).encode())
    stored = np.load(folder / "pictures.npy", mmap_mode="r")
    for first in range(0, pictures, CHUNK):
        digest.update(stored[first : first + CHUNK].tobytes())
    save_array(folder / "labels.npy", labels)
    save_array(folder / "identity.npy", identity)
    write_json(folder / "captions.json", captions)
    write_json(folder / "data.json", {"pictures": pictures, "seed": seed, "sha256": digest.hexdigest()})


def save_array(path: Path, array: np.ndarray) -> None:
    def write(place: Path) -> None:
        with place.open("wb") as file:
            np.save(file, array)

    write_atomic(path, write)


def load_dataset(folder: Path) -> Dataset:
    """Open what `draw` (and the tokenizer stage) wrote."""
    labels = torch.from_numpy(np.load(folder / "labels.npy"))
    columns = {name: labels[:, i] for i, name in enumerate(LABELS)}
    for name in (*world.CATEGORICAL, "who"):
        columns[name] = columns[name].long()
    tokens = folder / "tokens.npy"
    return Dataset(
        folder=folder,
        pictures=np.load(folder / "pictures.npy", mmap_mode="r"),
        labels=columns,
        identity=torch.from_numpy(np.load(folder / "identity.npy")),
        captions=json.loads((folder / "captions.json").read_text()),
        digest=json.loads((folder / "data.json").read_text())["sha256"],
        tokens=torch.from_numpy(np.load(tokens)) if tokens.is_file() else None,
    )


def fresh(seed: int, count: int, **fixed: object) -> tuple[Tensor, list[world.Factors]]:
    """Draw pictures (n, 3, 128, 128) from the plain world distribution with seeds pretraining never uses."""
    rng = np.random.default_rng((seed, 0xF2E54))
    factors = [world.sample_factors(rng, **fixed) for _ in range(count)]
    pictures = np.stack([world.render(f, SIZE) for f in factors])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255, factors


def shuffled(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=generator(seed))
