"""One image that somebody gives: how the network is fed it, what the index has for it, where it looks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dgrl.embedders.embedder import Embedder
from dgrl.embedders.protocol import Resolution
from dgrl.embedders.trained import TrainedNetwork
from dgrl.image_bank import resize
from dgrl.images import Image, decode, encode_png
from dgrl.model.network import Stream
from dgrl.report.activation import activation_maps, overlay
from dgrl.search.answers import Match, Query, find_answers
from dgrl.search.index import Index

TOP = 10
NAME = "this file"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of an image.

    Args:
        captured: as it was given, [h, w, 3].
        restored: as the network was fed it, [r h, r w, 3]; None if it is high-resolution.
        reason: why it was taken for low- or high-resolution.
        images: in the index.
        matches: the nearest of them, nearest first; with maps, under these.
        activation: the image under its activation map, if that was asked for.
    """

    captured: Image
    restored: Image | None
    reason: str
    images: int
    matches: Sequence[Match]
    activation: Image | None


def find(
    index: Index, embedder: Embedder, verdict: Callable[[float], str], data: bytes, *, maps: bool
) -> Finding:
    """Search for an encoded image.

    Args:
        index: of the embedder's network.
        embedder: restores and embeds.
        verdict: see ``answers.find_answers``.
        data: the image file's bytes.
        maps: whether to show where a trained network looks; others have no maps.

    Raises:
        InputError: if the bytes are no whole image, or it is over the limits.
    """
    image = decode(data, NAME)
    resolution, fed = _fed(embedder, image)
    vectors = embedder.network.embed([fed], resolution)
    (answer,) = find_answers(index, [Query(NAME, resolution, data)], vectors, TOP, verdict)
    matches, activation = answer.matches, None
    network = embedder.network
    if maps and isinstance(network, TrainedNetwork):
        activation = _map(network, fed, resolution)
        matches = [_with_map(network, embedder, match) for match in matches]
    restored = fed if resolution == "lr" else None
    reason = _reason(embedder, image, restored, answer.note)
    return Finding(image, restored, reason, len(index.rows), matches, activation)


def _fed(embedder: Embedder, image: Image) -> tuple[Resolution, Image]:
    resolution = embedder.resolution(image)
    return resolution, embedder.restore(image) if resolution == "lr" else image


def _with_map(network: TrainedNetwork, embedder: Embedder, match: Match) -> Match:
    if match.data is None:
        return match
    resolution, fed = _fed(embedder, decode(match.data, match.name))
    return replace(match, data=encode_png(_map(network, fed, resolution)))


def _map(network: TrainedNetwork, fed: Image, resolution: Resolution) -> Image:
    """An image under its activation map."""
    import torch

    extractor = network.extractor
    small = resize(fed, extractor.height, extractor.width)
    batch = torch.from_numpy(small).permute(2, 0, 1)[None]
    stream: Stream = "sr" if resolution == "lr" else "hr"
    return overlay(fed, activation_maps(extractor.model, batch, stream)[0])


def _reason(embedder: Embedder, image: Image, restored: Image | None, note: str) -> str:
    height, width = image.shape[:2]
    if restored is None:
        return f"{width}x{height} pixels: not shorter than {embedder.lr_below}, so taken for {note}."
    how = "RCAN" if embedder.rcan else "bicubic interpolation"
    return (
        f"{width}x{height} pixels: shorter than {embedder.lr_below}, so taken for {note}, and enlarged "
        f"{restored.shape[0] // height} times by {how}."
    )
