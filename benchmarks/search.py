"""How fast an index answers, how much it finds and how much memory it takes.

python benchmarks/search.py [--images 1000000] [--kinds exact,hnsw,ivf]

The vectors are those of benchmarks/ranking.py: 512 dimensions, persons in loose clusters, from a seed. A
query is timed alone, as a person asks it, and in batches of 100. Recall is the share of the 10 nearest images
of the exact index that another kind finds. Set OMP_NUM_THREADS to the number of cores to use.
"""

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from measure import best, in_a_child, peak, resident, timed
from ranking import CAMERAS, EASY, Crowd

from dgrl.search.index import COLUMNS, KINDS, Index, Kind

TOP, ALONE, BATCH = 10, 50, 100
IMAGES_PER_PERSON = 20


def build(folder: Path, kind: Kind, images: int) -> tuple[float, float]:
    """Write an index; seconds to make its structure, and MB on disk."""
    crowd = Crowd(max(1, images // IMAGES_PER_PERSON), EASY)
    persons = np.arange(images) // IMAGES_PER_PERSON % len(crowd.persons)
    vectors = crowd.images(persons, crowd.generator.integers(0, CAMERAS, images)).features
    paths = pd.Series(np.arange(images)).astype(str)
    rows = pd.DataFrame(dict.fromkeys(COLUMNS, paths))
    index = Index.empty("benchmark", "0" * 64, kind)
    index.put(rows, np.asarray(vectors, np.float32))
    seconds, _ = timed(lambda: index.search(index.vectors[:1], 1))
    index.save(folder)
    return seconds, sum(path.stat().st_size for path in folder.iterdir()) / 1e6


def answer(folder: Path, images: int) -> tuple[float, float, float, float, np.ndarray]:
    """Milliseconds of a query alone and in a batch, resident MB without and with the index, rows found."""
    crowd = Crowd(max(1, images // IMAGES_PER_PERSON), EASY)
    seen = crowd.generator.integers(0, len(crowd.persons), BATCH)
    queries = np.asarray(crowd.images(seen, crowd.generator.integers(0, CAMERAS, BATCH)).features, np.float32)
    before = resident().total
    index = Index.load(folder)
    index.search(queries, TOP)
    alone = [best(partial(index.search, queries[row : row + 1], TOP))[0] for row in range(ALONE)]
    batch, found = best(lambda: index.search(queries, TOP))
    rows = np.array(
        [np.pad(matches.rows, (0, TOP - len(matches.rows)), constant_values=-1) for matches in found]
    )
    return 1e3 * float(np.median(alone)), 1e3 * batch / BATCH, before, peak(), rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--kinds", default=",".join(KINDS))
    options = parser.parse_args()
    threads = os.environ.get("OMP_NUM_THREADS", f"{os.cpu_count()} (all)")
    print(f"{options.images:,} vectors of 512 values, threads: {threads}")
    exact = None
    with tempfile.TemporaryDirectory() as root:
        for kind in [each for each in KINDS if each in options.kinds.split(",")]:
            seconds, size = in_a_child(build, Path(root) / kind, kind, options.images)
            alone, batch, before, most, rows = in_a_child(answer, Path(root) / kind, options.images)
            exact = rows if kind == "exact" else exact
            line = f"{kind}: {alone:.2f} ms a query alone, {batch:.2f} ms in a batch of {BATCH}, "
            line += f"built in {seconds:.0f} s, {size:.0f} MB on disk, {most - before:.0f} MB of memory"
            if exact is not None and kind != "exact":
                hits = [len(set(a) & set(b)) for a, b in zip(exact.tolist(), rows.tolist(), strict=True)]
                line += f", recall {sum(hits) / (TOP * BATCH):.3f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
