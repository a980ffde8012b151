"""Which picture is shown when: an endless shuffled stream in which everything follows from (seed, position).

No state: resuming is asking for a later position. Several subjects take turns, so they are balanced.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from likeness.subjects import seeded

# First entry of every random key, so that no two uses share numbers.
INSTANCE, CLASS, NOISE, TIMESTEPS, POSTERIOR, OFFSET, DROPOUT, CROP, VARIANT = range(9)


class Stream:
    """Rows of the instance and class tables for each micro-step.

    `instance_sizes` and `class_sizes` hold the number of pictures per subject; `variants` consecutive rows of
    the instance table belong to one photo. Class rows start at 0 in their own table.
    """

    def __init__(
        self, instance_sizes: list[int], class_sizes: list[int], variants: int, batch: int, seed: int
    ) -> None:
        self.instance_sizes, self.class_sizes = instance_sizes, class_sizes
        self.variants, self.batch, self.seed = variants, batch, seed

    def positions(self, micro_step: int, rank: int, world: int) -> range:
        """Return the positions in the stream of one process's micro-batch."""
        first = (micro_step * world + rank) * self.batch
        return range(first, first + self.batch)

    def instance_rows(self, positions: range) -> list[int]:
        """Return a row of the instance table for each position."""
        rows = []
        for position in positions:
            subject, turn = position % len(self.instance_sizes), position // len(self.instance_sizes)
            photo = self._shuffled(INSTANCE, subject, turn, self.instance_sizes[subject])
            photo += sum(self.instance_sizes[:subject])
            rows.append(photo * self.variants + self._variant(position))
        return rows

    def class_rows(self, positions: range) -> list[int]:
        """Return a row of the class table for each position, of the same subject as its instance."""
        rows = []
        for position in positions:
            subject, turn = position % len(self.class_sizes), position // len(self.class_sizes)
            picture = self._shuffled(CLASS, subject, turn, self.class_sizes[subject])
            rows.append(sum(self.class_sizes[:subject]) + picture)
        return rows

    def _variant(self, position: int) -> int:
        if self.variants == 1:
            return 0
        return int(torch.randint(self.variants, (), generator=seeded(self.seed, VARIANT, position)))

    def _shuffled(self, kind: int, subject: int, turn: int, size: int) -> int:
        epoch, place = divmod(turn, size)
        return _order(self.seed, kind, subject, epoch, size)[place]


@lru_cache(maxsize=64)
def _order(seed: int, kind: int, subject: int, epoch: int, size: int) -> list[int]:
    return torch.randperm(size, generator=seeded(seed, kind, subject, epoch)).tolist()
