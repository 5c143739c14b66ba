"""PK batches: their promises for any distribution of pairs over persons."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgrl.errors import InputError
from dgrl.random import named_generator
from dgrl.training.params import TrainParams
from dgrl.training.sampler import Indices, PersonBatchSampler


@dataclass(frozen=True)
class Case:
    """Pairs of each person, P, K and a seed."""

    sizes: list[int]
    persons: int
    pairs: int
    seed: int

    @property
    def labels(self) -> Indices:
        """The class of each pair, in no order; classes are any numbers."""
        labels = np.repeat(np.arange(len(self.sizes)) * 7 + 3, self.sizes)
        return named_generator("test_sampler", self.seed).permutation(labels)

    @property
    def sampler(self) -> PersonBatchSampler:
        return PersonBatchSampler(self.labels, self.persons, self.pairs, self.seed)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=10))
    if draw(st.booleans()):  # one person with most of the images
        sizes[0] = draw(st.integers(13, 60))
    persons = draw(st.integers(1, len(sizes)))
    return Case(sizes, persons, draw(st.integers(1, 5)), draw(st.integers(0, 10_000)))


any_case = given(case=cases())
quick = settings(max_examples=150, deadline=None)


@quick
@any_case
def test_a_batch_has_p_persons_with_k_pairs_each(case: Case) -> None:
    labels = case.labels
    for batch in case.sampler.epoch(0):
        by_person = labels[batch].reshape(case.persons, case.pairs)
        assert (by_person == by_person[:, :1]).all()
        assert len(set(by_person[:, 0])) == case.persons


@quick
@any_case
def test_an_epoch_shows_every_pair(case: Case) -> None:
    for number in range(3):
        shown = np.concatenate(case.sampler.epoch(number))
        assert set(shown) == set(range(sum(case.sizes)))


@quick
@any_case
def test_an_epoch_has_the_fewest_batches_that_can_show_every_pair(case: Case) -> None:
    """A batch shows K pairs of a person at most, and P such groups."""
    groups = [-(-size // case.pairs) for size in case.sizes]
    fewest = max(max(groups), -(-sum(groups) // case.persons))
    sampler = case.sampler
    assert sampler.batches_per_epoch == fewest
    assert [len(sampler.epoch(number)) for number in range(3)] == [fewest] * 3


@quick
@any_case
def test_a_persons_pairs_repeat_in_a_batch_only_where_they_are_fewer_than_k(case: Case) -> None:
    labels = case.labels
    size = Counter(labels.tolist())
    for batch in case.sampler.epoch(0):
        for pairs in batch.reshape(case.persons, case.pairs):
            own = size[labels[pairs[0]]]
            times = Counter(pairs.tolist())
            assert len(times) == min(own, case.pairs)
            assert max(times.values()) - min(times.values()) <= 1


@quick
@any_case
def test_batches_are_a_function_of_seed_and_epoch(case: Case) -> None:
    straight, resumed = case.sampler, case.sampler
    straight.epoch(0)
    for a, b in zip(straight.epoch(1), resumed.epoch(1), strict=True):
        np.testing.assert_array_equal(a, b)


def test_where_the_groups_are_even_every_pair_comes_once() -> None:
    batches = Case([6] * 8, persons=4, pairs=3, seed=1).sampler.epoch(0)
    assert sorted(np.concatenate(batches)) == list(range(48))


def test_epochs_and_seeds_differ() -> None:
    labels = np.repeat(np.arange(12), 5)
    epochs = [
        np.concatenate(PersonBatchSampler(labels, 4, 3, seed).epoch(number))
        for seed in (0, 1)
        for number in (0, 1)
    ]
    assert len({epoch.tobytes() for epoch in epochs}) == 4


def test_who_meets_whom_is_mixed() -> None:
    labels = np.repeat(np.arange(6), 2)
    sampler = PersonBatchSampler(labels, 2, 2, seed=0)
    met = {frozenset(labels[batch].tolist()) for number in range(60) for batch in sampler.epoch(number)}
    assert len(met) == 6 * 5 / 2


def test_fewer_persons_than_a_batch_needs() -> None:
    with pytest.raises(InputError, match=r"persons_per_batch = 4.*only 3 persons.*lower it or add"):
        PersonBatchSampler([0, 0, 1, 1, 2, 2], persons_per_batch=4, pairs_per_person=2, seed=0)


def test_the_defaults_are_the_papers() -> None:
    params = TrainParams.parse({}, "train")
    assert (params.persons_per_batch, params.pairs_per_person, params.epochs) == (16, 3, 70)
    assert (params.learning_rate, params.momentum, params.weight_decay) == (0.013, 0.9, 5e-4)
    assert (params.decay_every, params.decay_factor) == (30, 0.1)


@pytest.mark.parametrize(
    "wrong",
    [{"persons_per_batch": 1}, {"pairs_per_person": 0}, {"learning_rate": 0.0}, {"precision": "half"}],
)
def test_a_wrong_value_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"train\.{next(iter(wrong))}"):
        TrainParams.parse(wrong, "train")
