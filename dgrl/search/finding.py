"""Search for one image: what the network gets of it, its nearest images in the index, activation maps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dgrl.embedders.embedder import Embedder
from dgrl.embedders.protocol import Resolution
from dgrl.embedders.trained import TrainedNetwork
from dgrl.image_bank import resize
from dgrl.images import Image, decode, encode_png
from dgrl.model.network import Stream
from dgrl.report.activation import activation_maps, overlay
from dgrl.search.answers import Match, find_answers
from dgrl.search.index import Index
from dgrl.search.sources import Source

TOP = 10
NAME = "this file"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a search for one image; images are uint8 RGB.

    Args:
        captured: the image as it was given, [h, w, 3].
        restored: super-resolved by factor r, [r h, r w, 3]; None if it is high-resolution.
        reason: why it was taken for low- or high-resolution, for people.
        images: how many the index has.
        matches: the nearest ones, nearest first; where activation maps were asked for, each under its own.
        activation: the query under its activation map; None where none was asked for, or there is none.
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
        embedder: restores LR images, and embeds.
        verdict: from a cosine similarity to its answer: ``same person 0.93``, ``unknown``, or empty.
        data: the image file's bytes.
        maps: whether to draw activation maps; only a network that this project trained has them.

    Raises:
        InputError: if the bytes are no whole image, or it is over the limits.
    """
    image = decode(data, NAME)
    resolution, fed = _network_input(embedder, image)
    vectors = embedder.network.embed([fed], resolution)
    (answer,) = find_answers(index, [Source(NAME, None, None, data)], [resolution], vectors, TOP, verdict)
    matches, activation = answer.matches, None
    network = embedder.network
    if maps and isinstance(network, TrainedNetwork):
        activation = _map(network, fed, resolution)
        matches = [_with_map(network, embedder, match) for match in matches]
    restored = fed if resolution == "lr" else None
    reason = _reason(embedder, image, restored, answer.note)
    return Finding(image, restored, reason, len(index.rows), matches, activation)


def _network_input(embedder: Embedder, image: Image) -> tuple[Resolution, Image]:
    """What an image is taken for, and the image to embed: itself, or an LR image restored."""
    resolution = embedder.resolution(image)
    return resolution, embedder.restore(image) if resolution == "lr" else image


def _with_map(network: TrainedNetwork, embedder: Embedder, match: Match) -> Match:
    if match.data is None:
        return match
    resolution, fed = _network_input(embedder, decode(match.data, match.name))
    return replace(match, data=encode_png(_map(network, fed, resolution)))


def _map(network: TrainedNetwork, fed: Image, resolution: Resolution) -> Image:
    """An image under its activation map."""
    import torch

    extractor = network.extractor
    resized = resize(fed, extractor.height, extractor.width)
    batch = torch.from_numpy(resized).permute(2, 0, 1)[None]
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
