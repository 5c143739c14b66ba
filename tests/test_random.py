"""Named generators: draws named alike are alike, and disturb no others."""

import hashlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from dgrl.random import named_generator, named_seed


@settings(deadline=None)
@given(st.lists(st.one_of(st.text(), st.integers()), max_size=4))
def test_a_seed_is_a_function_of_its_names(names: list[str | int]) -> None:
    joined = "\x1f".join(str(name) for name in names).encode()
    expected = int(hashlib.sha256(joined).hexdigest()[:16], 16).to_bytes(8, "big")
    assert named_seed(*names) == int.from_bytes(expected, "little") // 2 < 2**63


def test_published_seeds_never_change() -> None:
    name = ("factor", 0, "viper", 0, "000_cam_a")
    assert named_seed(*name) == 3276385142184014488
    assert named_generator(*name).integers(1000, size=4).tolist() == [877, 505, 718, 521]


def test_the_borders_between_names_count() -> None:
    names = [("ab", "c"), ("a", "bc"), ("abc",), ("c", "ab"), ("ab", "c", ""), (1, 23), (12, 3), (123,)]
    assert len({named_seed(*name) for name in names}) == len(names)
    assert named_seed(1, "a") == named_seed("1", "a")


def test_generators_of_one_name_are_alike_and_do_not_disturb_each_other() -> None:
    first, second, other = named_generator("a", 1), named_generator("a", 1), named_generator("a", 2)
    other.random(100)
    draws = first.random(100)
    np.testing.assert_array_equal(draws, second.random(100))
    assert not np.array_equal(draws, named_generator("a", 2).random(100))


def test_the_first_draws_of_neighbouring_names_are_uniform() -> None:
    draws = [named_generator("image", number).random() for number in range(1000)]
    assert kstest(draws, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.1  # three standard deviations
