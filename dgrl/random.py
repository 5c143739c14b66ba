"""Named, seeded random generators.

Every random draw of the project comes from a generator whose seed is a digest of names (seed, dataset,
trial, image_id, ...). Two draws with different names never influence each other, so adding, removing or
reordering images changes no other image's draw, and a resumed run draws what the uninterrupted one did.
"""

import hashlib

import numpy as np


def named_seed(*names: str | int) -> int:
    """A 63-bit seed from names, the same on every machine and Python version."""
    digest = hashlib.sha256("\x1f".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def named_generator(*names: str | int) -> np.random.Generator:
    """A NumPy generator seeded by ``named_seed(*names)``."""
    return np.random.default_rng(named_seed(*names))
