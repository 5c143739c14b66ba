"""From embeddings to metrics: arrays in, numbers out."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from dgrl.evaluation.params import EvaluateParams
from dgrl.evaluation.ranking import Embeddings, Ranking, rank
from dgrl.evaluation.rerank import KReciprocal


def evaluate_embeddings(
    query: Embeddings, gallery: Embeddings, factors: npt.NDArray[np.integer], params: EvaluateParams
) -> tuple[Ranking, dict[str, float]]:
    """Rank the gallery for every query (IV-B).

    Args:
        query: N embeddings.
        gallery: M embeddings.
        factors: the down-sampling factor of each query [N].
        params: the ``evaluate`` section.

    Returns:
        The ranking; and its metrics in percent: of all queries, ``factor<r>.rank1`` of those of a factor, and
        ``rerank.*`` after k-reciprocal re-ranking where that is wanted.
    """
    ranking = rank(query, gallery, cmc_length=params.cmc_length)
    metrics = ranking.metrics()
    for factor in sorted(set(factors.tolist())):
        chosen = factors == factor
        if ranking.valid[chosen].any():
            metrics[f"factor{factor}.rank1"] = ranking.select(chosen).metrics()["rank1"]
    if params.rerank:
        reranked = rank(query, gallery, similarity=KReciprocal(query.features, gallery.features))
        metrics |= {f"rerank.{name}": value for name, value in reranked.metrics().items()}
    return ranking, metrics


def curves(ranking: Ranking) -> pd.DataFrame:
    """Columns rank (from 1), single_shot and multi_shot: the CMC in percent."""
    single, multi = ranking.single_shot_cmc, ranking.cmc
    return pd.DataFrame({"rank": np.arange(1, len(single) + 1), "single_shot": single, "multi_shot": multi})
