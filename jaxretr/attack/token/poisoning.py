"""Corpus poisoning. Input: query embeddings. Output: adversarial passages, one per cluster of queries.

Source: Zhong et al. (2023), arXiv 2310.19156. The passages are meant to be retrieved by queries that the attacker has
not seen.
"""

import numpy as np
from jaxtyping import Bool, Float32
from scipy.cluster.vq import ClusterError, kmeans2

from jaxretr.attack.token.decoding import Triggers, best_strings
from jaxretr.attack.token.engine import Engine
from jaxretr.attack.token.objectives import Similarity
from jaxretr.attack.token.precision import default_finalists
from jaxretr.attack.token.schedules import HOTFLIP, Schedule
from jaxretr.attack.token.search import search
from jaxretr.attack.token.template import Frame, Template, make_template
from jaxretr.files import AnyPath
from jaxretr.model.encode import Encoder

SLOTS = 50
"""Tokens of a trigger."""


def cluster_means(
    queries: Float32[np.ndarray, "queries dim"], clusters: int, seed: int
) -> Float32[np.ndarray, "clusters dim"]:
    """Return the mean query of each cluster, found by k-means (k-means++ start).

    Raises:
      ValueError: there are more clusters than k-means can fill.
    """
    if clusters == 1:
        return queries.mean(axis=0, keepdims=True)
    try:
        means, _ = kmeans2(queries, clusters, minit="++", missing="raise", rng=np.random.default_rng(seed))
    except (ClusterError, ValueError) as error:
        raise ValueError(f"{len(queries)} queries cannot form {clusters} clusters ({error}); use fewer") from error
    return means.astype(np.float32)


def check_fits(encoder: Encoder, text: str, slots: int) -> None:
    """Check that a trigger of `slots` tokens fits after a text.

    Raises:
      ValueError: truncation would cut the trigger.
    """
    make_template(encoder, "passage", [Frame(before=text)], slots)


def poison(
    encoder: Encoder,
    targets: Float32[np.ndarray, "passages dim"],
    mask: Bool[np.ndarray, " vocab"],
    *,
    text: str = "",
    slots: int = SLOTS,
    schedule: Schedule = HOTFLIP,
    forward_passes: int | None = None,
    seed: int,
    resume: AnyPath | None = None,
) -> Triggers:
    """Search for one adversarial passage per target, as similar to the target as possible.

    A passage is a fixed text followed by a trigger, and only the trigger is optimized. Without a text, the passage is
    the trigger.

    Args:
      encoder: the victim.
      targets: mean queries, such as from `cluster_means`; the mean similarity to the queries is the similarity to their
        mean.
      mask: rows of the embedding table that the passages may use, see `Vocabulary`.
      text: the fixed text, the same in all passages.
      slots: tokens per trigger.
      schedule: the candidates of an iteration.
      forward_passes: search budget per passage; None for the default number of iterations of the schedule.
      seed: seed of all draws.
      resume: see `jaxretr.attack.token.search`.

    Raises:
      ValueError: the trigger does not fit after the text; see also `jaxretr.attack.token.search`.
    """
    frame = Frame(before=text)
    single = make_template(encoder, "passage", [frame], slots)
    template = Template(*(np.repeat(part[None], len(targets), axis=0) for part in single))
    context = targets[:, None]
    engine = Engine(encoder.functions, Similarity(), schedule, default_finalists())
    if forward_passes is None:
        forward_passes = engine.passes(schedule.iterations, slots, int(mask.sum()))
    trace = search(encoder, engine, template, context, mask, forward_passes=forward_passes, seed=seed, resume=resume)
    return best_strings(encoder, "passage", [[frame]] * len(targets), template, engine.objective, context, trace)
