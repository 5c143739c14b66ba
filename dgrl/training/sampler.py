"""Batches of P persons with K pairs each (paper IV-C: 16 individuals, 3 pairs)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dgrl.errors import InputError
from dgrl.random import named_generator

Indices = npt.NDArray[np.int64]


class PersonBatchSampler:
    """Exact PK batches: no person twice in a batch, every pair at least once an epoch.

    Each epoch, a person's pairs are shuffled and cut into groups of K (the last group is filled up with the
    person's own pairs). Every group goes into one batch; where fewer than P persons have groups left, other
    persons fill the batch, so no batch is short. The batches of an epoch are a pure function of the seed
    and the epoch's number: resuming needs no state but the step.

    Args:
        persons: class of each pair; -1 for one that is not drawn.
        persons_per_batch: P.
        pairs_per_person: K.
        seed: of the draws.

    Raises:
        InputError: if there are fewer than P persons.
    """

    def __init__(
        self, persons: Sequence[int] | Indices, persons_per_batch: int, pairs_per_person: int, seed: int
    ) -> None:
        labels = np.asarray(persons)
        self.pairs_of = [np.flatnonzero(labels == person) for person in np.unique(labels[labels >= 0])]
        if len(self.pairs_of) < persons_per_batch:
            raise InputError(
                f"train.persons_per_batch = {persons_per_batch}, but the training set has only "
                f"{len(self.pairs_of)} persons; lower it or add persons"
            )
        self.persons_per_batch = persons_per_batch
        self.pairs_per_person = pairs_per_person
        self.seed = seed
        self.group_counts = np.array([-(-len(pairs) // pairs_per_person) for pairs in self.pairs_of])
        fullest = -(-self.group_counts.sum() // persons_per_batch)
        self.batches_per_epoch = int(max(self.group_counts.max(), fullest))

    def epoch(self, number: int) -> list[Indices]:
        """The batches of an epoch: ``batches_per_epoch`` arrays of P * K pair indices, person by person."""
        rng = named_generator("batches", self.seed, number)
        groups = [self._groups(pairs, rng) for pairs in self.pairs_of]
        batches = []
        for chosen in self._schedule(rng):
            batch = [
                groups[person].pop() if groups[person] else self._extra(person, rng) for person in chosen
            ]
            batches.append(np.concatenate(batch))
        return [batches[index] for index in rng.permutation(len(batches))]

    def _schedule(self, rng: np.random.Generator) -> list[Indices]:
        """Which persons meet in each batch: at random, in proportion to the groups they have left.

        A person with as many groups left as there are batches must be in each of them; that keeps the
        schedule feasible to the end.
        """
        left = self.group_counts.copy()
        schedule = []
        for batches_left in range(self.batches_per_epoch, 0, -1):
            # The smallest exponential variables with rates w are a draw in proportion to w, without repeats.
            urgency = rng.exponential(size=len(left)) / np.maximum(left, 1)
            urgency[left == batches_left] = -1
            chosen = np.lexsort([urgency, left == 0])[
                : self.persons_per_batch
            ]  # who has none left comes last
            left[chosen] = np.maximum(left[chosen] - 1, 0)
            schedule.append(chosen)
        return schedule

    def _groups(self, pairs: Indices, rng: np.random.Generator) -> list[Indices]:
        shuffled = rng.permutation(pairs)
        short = -len(shuffled) % self.pairs_per_person
        filled = np.concatenate([shuffled, np.resize(shuffled, short)])
        return list(filled.reshape(-1, self.pairs_per_person))

    def _extra(self, person: int, rng: np.random.Generator) -> Indices:
        return np.resize(rng.permutation(self.pairs_of[person]), self.pairs_per_person)
