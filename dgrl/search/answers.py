"""What an index has for queries, ready to be shown: names, captions, answers, encoded images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgrl.embedders.protocol import Resolution
from dgrl.search.index import Index, Vectors
from dgrl.search.sources import Source, read_images


@dataclass(frozen=True, slots=True)
class Match:
    """An image that was found; ``data`` is None where its file is gone."""

    name: str
    caption: str  # person and camera
    similarity: float
    answer: str  # same person and the probability, or unknown; empty without a calibration
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Answer:
    """A query, and what the index has for it, nearest first."""

    name: str
    note: str
    data: bytes
    matches: Sequence[Match]


def find_answers(
    index: Index,
    queries: Sequence[Source],
    resolutions: Sequence[Resolution],
    vectors: Vectors,
    top: int,
    verdict: Callable[[float], str],
) -> list[Answer]:
    """Search, and read the images that were found.

    Args:
        index: of the network that embedded the queries.
        queries: N images.
        resolutions: what each was taken for.
        vectors: [N, D], their embeddings.
        top: matches of each, at most.
        verdict: from a similarity to ``Match.answer``.
    """
    results = index.search(vectors, top)
    rows = [index.rows.iloc[matches.rows] for matches in results]
    images = read_images({path for part in rows for path in part.image_path})
    answers = []
    for query, resolution, matches, part in zip(queries, resolutions, results, rows, strict=True):
        shown = []
        for row, similarity in zip(part.to_dict("records"), matches.similarity.tolist(), strict=True):
            data, name = images.get(row["image_path"]), _short(row["image_path"])
            shown.append(Match(name, _caption(row), similarity, verdict(similarity), data))
        note = "low-resolution" if resolution == "lr" else "high-resolution"
        if resolution == "hr" and any(match.answer for match in shown):
            note += ", but low-resolution queries are what the answers are calibrated on"
        answers.append(Answer(_short(query.image_path), note, query.data, shown))
    return answers


def _short(image_path: str) -> str:
    """Below the working directory a relative path, without what a terminal would obey."""
    name = image_path.removeprefix(f"{Path.cwd().resolve()}/")
    return "".join(character if character.isprintable() else "?" for character in name)


def _caption(row: Any) -> str:
    """Person and camera, as far as they are known."""
    return _short(", ".join(row[name] for name in ("person_id", "camera_id") if isinstance(row[name], str)))
