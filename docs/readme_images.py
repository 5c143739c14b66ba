"""Draw the two images on top of the README.

python docs/readme_images.py pipeline         docs/pipeline.svg: the stages of dvc.yaml
python docs/readme_images.py ranked [DATA]    docs/ranked-synthetic.png: from data/synthetic after make repro
"""

import sys
from html import escape
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import yaml

from dgrl.images import Image
from dgrl.tables import read_rows

HERE = Path(__file__).parent
DATA = HERE.parent / "data/synthetic"
WHAT = {  # two short lines on what a stage does; what it writes stands in dvc.yaml
    "inputs": ("digests of the", "input files"),
    "download": ("archive to a", "table of images"),
    "split": ("who is where,", "LR images"),
    "pretrain_sr": ("RCAN, one for", "each factor"),
    "cache_sr": ("LR images", "super-resolved"),
    "train": ("DGRL on HR/SR", "pairs"),
    "evaluate": ("metrics, plots,", "report"),
}
BOX, GAP, MARGIN, HEIGHT = 118, 22, 12, 132  # pixels
CELL, FRAME, SPACE = (48, 96), 3, 8  # pixels: width and height of an image, its frame, the space between
PERSONS, MATCHES = 4, 5
GREY, GREEN, RED, WHITE = (128, 128, 128), (21, 128, 61), (220, 38, 38), (255, 255, 255)


def pipeline(stages: dict[str, dict[str, list[object]]]) -> str:
    """The stages in their order as SVG, each with the folder that it writes below data/<dataset>."""
    width = 2 * MARGIN + len(stages) * BOX + (len(stages) - 1) * GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" font-family="sans-serif" '
        'font-size="13" text-anchor="middle">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 8 4 0 8z" fill="#475569"/></marker></defs>',
        f'<rect width="{width}" height="{HEIGHT}" rx="8" fill="#f8fafc"/>',
    ]
    for place, (name, stage) in enumerate(stages.items()):
        x, top = MARGIN + place * (BOX + GAP), 22
        middle = x + BOX / 2
        many = "scale" in stage["matrix"]  # one network for each factor: boxes behind boxes
        parts += [
            f'<rect x="{x + shift}" y="{top - shift}" width="{BOX}" height="70" rx="6" fill="#dbeafe" '
            'stroke="#475569"/>'
            for shift in ((8, 4, 0) if many else (0,))
        ]
        parts += [
            f'<text x="{middle}" y="{top + 21}" font-weight="bold">{escape(name)}</text>',
            *(
                f'<text x="{middle}" y="{top + 41 + 17 * line}">{escape(text)}</text>'
                for line, text in enumerate(WHAT[name])
            ),
            f'<text x="{middle}" y="{top + 92}" font-family="monospace" fill="#475569">'
            f"{_writes(stage)}/</text>",
        ]
        if place:
            y, start = top + 35, x - GAP + 1
            parts.append(
                f'<path d="M{start} {y}H{x - 1}" stroke="#475569" stroke-width="1.5" marker-end="url(#tip)"/>'
            )
    return "\n".join([*parts, "</svg>", ""])


def _writes(stage: dict[str, list[object]]) -> str:
    """The folder below data/<dataset> that a stage writes."""
    return str(stage["outs"][0]).removeprefix("data/${item.dataset}/").partition("/")[0]


def ranked(data: Path) -> Image:
    """Of some queries: as captured, as the network is fed it, and the nearest images of other cameras."""
    rows = pq.read_table(data / "eval/embeddings.parquet").to_pandas()
    shown = {
        table: {row.image_id: row.pixels() for row in read_rows(data / folder)}
        for table, folder in (("low", "mlr/query"), ("query", "sr/query"), ("gallery", "mlr/gallery"))
    }
    queries, gallery = (rows[rows.subset == name] for name in ("query", "gallery"))
    features = np.stack(gallery.embedding.to_list())
    chosen = queries[queries.factor == 3].drop_duplicates("person_id").iloc[:PERSONS]
    lines = []
    for query in chosen.itertuples():
        order = np.argsort(-features @ query.embedding, kind="stable")[:MATCHES]
        cells = [_cell(shown[table][query.image_id], GREY) for table in ("low", "query")]
        for match in gallery.iloc[order].itertuples():
            colour = GREEN if match.person_id == query.person_id else RED
            cells.append(_cell(shown["gallery"][match.image_id], colour))
        lines.append(np.hstack(cells))
    halves = [np.vstack(lines[start::2]) for start in (0, 1)]
    return np.hstack([halves[0], np.full((len(halves[0]), 3 * SPACE, 3), WHITE, np.uint8), halves[1]])


def _cell(image: Image, colour: tuple[int, int, int]) -> Image:
    """An image, enlarged to the pixel where it is small, in a frame on white."""
    kernel = cv2.INTER_NEAREST if image.shape[0] < CELL[1] else cv2.INTER_AREA
    resized = cv2.resize(image, CELL, interpolation=kernel).astype(np.uint8, copy=False)
    return _framed(_framed(resized, FRAME, colour), SPACE // 2, WHITE)


def _framed(image: Image, width: int, colour: tuple[int, int, int]) -> Image:
    framed = np.full((image.shape[0] + 2 * width, image.shape[1] + 2 * width, 3), colour, np.uint8)
    framed[width:-width, width:-width] = image
    return framed


def main() -> None:
    """Draw the image that the command line names."""
    if sys.argv[1:] == ["pipeline"]:
        stages = yaml.safe_load((HERE.parent / "dvc.yaml").read_text())["stages"]
        (HERE / "pipeline.svg").write_text(pipeline(stages))
    elif sys.argv[1:2] == ["ranked"]:
        data = Path(sys.argv[2]) if sys.argv[2:] else DATA
        few_colours = PIL.Image.fromarray(ranked(data)).quantize(128)  # a quarter of the bytes
        few_colours.save(HERE / "ranked-synthetic.png", optimize=True)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
