"""Attack on the prompt of queries: drop it, or replace it with the prompt of passages.

Input: a `Victim` and one of its tasks. Output: an `AttackResult` with the worst prompt per query, found by enumeration.

Many retrievers put a prompt such as "query: " before each query. An application that forgets the prompt, or encodes
queries as passages, retrieves less. This attack measures how much in the worst case.
"""

import copy
from collections.abc import Sequence
from typing import get_args

import numpy as np
from jaxtyping import Float32

from jaxretr.attack.result import AttackResult, Prompt
from jaxretr.attack.text.search import check_margin_k
from jaxretr.attack.victim import Victim, margin
from jaxretr.eval.settings import Task
from jaxretr.model.encode import Encoder


def prompt_attack(victim: Victim, task: Task, *, margin_k: int = 10) -> AttackResult:
    """Ask every query with the prompt, the prompt of queries included, for which the attacker's gain is largest.

    Args:
      victim: the model and the collection.
      task: the attacked task.
      margin_k: k of the `margin`; the worst prompt has the largest margin. On a tie, the prompt of queries is kept.

    Returns:
      The result. `changed` is False if the model has no other prompt. The cost is one forward pass per prompt. Notes:
      `dropped` and `swapped`, the numbers of queries without a prompt and with the prompt of passages.

    Raises:
      ValueError: no attack can reach `margin_k`.
    """
    candidates = victim.candidates(task)
    check_margin_k(candidates, margin_k)
    prompts: list[Prompt] = ["query", *other_prompts(victim.encoder)]
    embeddings = np.stack([with_prompts(victim, task, [prompt] * len(task.queries)) for prompt in prompts])
    gains = [margin(vectors, victim.corpus(task), candidates, margin_k) for vectors in embeddings]
    worst = np.argmax(gains, axis=0)
    chosen = tuple(prompts[number] for number in worst)
    return AttackResult(
        task,
        embeddings[worst, np.arange(len(worst))],
        changed=np.full(len(worst), len(prompts) > 1),
        forward_passes=np.full(len(worst), float(len(prompts))),
        notes={"dropped": float(chosen.count("none")), "swapped": float(chosen.count("passage"))},
        prompts=chosen,
    )


def other_prompts(encoder: Encoder) -> list[Prompt]:
    """Return the prompts whose text differs from the prompt of queries, without repetition."""
    texts: dict[str, Prompt] = {}
    for prompt in get_args(Prompt):
        texts.setdefault(_text(encoder, prompt), prompt)
    return [prompt for prompt in texts.values() if prompt != "query"]


def with_prompts(victim: Victim, task: Task, prompts: Sequence[Prompt]) -> Float32[np.ndarray, "queries dim"]:
    """Return the embeddings of a task's queries with the given prompts; a query with its own prompt is not encoded."""
    embeddings, queries = victim.queries[task.queries].copy(), victim.queries_of(task)
    for prompt in other_prompts(victim.encoder):
        rows = [row for row, name in enumerate(prompts) if _text(victim.encoder, name) == _text(victim.encoder, prompt)]
        encoder = copy.copy(victim.encoder)
        encoder.query_tokenization = copy.copy(encoder.query_tokenization)
        encoder.query_tokenization.prefix = _text(encoder, prompt)
        embeddings[rows] = encoder.encode_query([queries[row].text for row in rows], progress=False)
    return embeddings


def _text(encoder: Encoder, prompt: Prompt) -> str:
    return {"query": encoder.query_prefix, "none": "", "passage": encoder.passage_prefix}[prompt]
