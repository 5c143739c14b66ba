"""The model card: what a folder for the Hugging Face Hub says of its network."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jinja2

from dgrl.embedders.folder import FolderParams


@dataclass(frozen=True)
class Terms:
    """What the owners of a data set ask."""

    name: str
    terms: str
    citation: str


# As in docs/responsible-use.md
TERMS: Mapping[str, Terms] = {
    "viper": Terms(
        "VIPeR",
        "none stated in the archive's README, which asks to cite the paper: ask the authors",
        "Gray, Brennan, Tao: Evaluating Appearance Models for Recognition, Reacquisition, and "
        "Tracking, PETS 2007",
    ),
    "caviar": Terms(
        "CAVIAR4REID",
        "none stated on its page: ask the authors. For the clips themselves see "
        "homepages.inf.ed.ac.uk/rbf/CAVIARDATA1, not read here; others who use them name Creative"
        ' Commons BY-SA, and the line "EC Funded CAVIAR project/IST 2001 37540"',
        "Cheng, Cristani, Stoppa, Bazzani, Murino: Custom Pictorial Structures for Re-"
        "identification, BMVC 2011",
    ),
    "cuhk03": Terms(
        "CUHK03",
        "handed out on request; its page was not read here: ask the authors, and keep to what you sign",
        "Li, Zhao, Xiao, Wang: DeepReID, CVPR 2014",
    ),
    "market1501": Terms(
        "Market-1501",
        'no licence in what was read of its page, which asks to cite the paper "if you use this '
        'dataset in your research": ask the authors',
        "Zheng, Shen, Tian, Wang, Wang, Tian: Scalable Person Re-identification: A Benchmark, ICCV 2015",
    ),
    "synthetic": Terms(
        "synthetic",
        "MIT; shows nobody",
        "",
    ),
}
OWN = "images of the project's own: whoever publishes this network must state their terms here"
METRICS = {  # type of a result on the Hub
    "rank1": "Rank-1, single-shot",
    "rank5": "Rank-5, single-shot",
    "rank10": "Rank-10, single-shot",
    "mAP": "mAP",
    "mINP": "mINP",
}


def render_card(
    name: str,
    config: FolderParams,
    model_sha256: str,
    trained_on: Iterable[str],
    metrics: Mapping[str, Any],
) -> str:
    """The text of ``README.md``: YAML that the Hub reads, then Markdown.

    Args:
        name: of the network.
        config: what is in the folder.
        model_sha256: of ``model.safetensors``.
        trained_on: ``<dataset>/<person>``, as the file says.
        metrics: by dataset, nested, in percent, with ``options``; empty: it was not evaluated.
    """
    persons = Counter(each.partition("/")[0] for each in trained_on)
    results = {dataset: list(_flat(values)) for dataset, values in metrics.items()}
    template = jinja2.Environment(  # noqa: S701 (it makes Markdown)
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    ).from_string(files("dgrl.embedders").joinpath("model_card.md.j2").read_text("utf-8"))
    return template.render(
        name=name,
        config=config,
        sha256=model_sha256,
        persons=dict(sorted(persons.items())),
        terms={each: TERMS.get(each, Terms(each, OWN, "")) for each in persons},
        free=set(persons) == {"synthetic"},
        results=results,
        headline=METRICS,
        options={dataset: dict(values.get("options", {})) for dataset, values in metrics.items()},
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Dotted names and values of the metrics; not what random weights reach."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            if prefix or key not in ("options", "untrained"):
                yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float)):
            yield prefix + key, value
