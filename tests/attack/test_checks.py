"""The checks pass for an honest model and find one out that hides its gradient."""

import dataclasses

import jax
import pytest

from jaxretr.attack.checks import strength_checks
from jaxretr.attack.options import AttackOptions
from jaxretr.attack.record import Check
from jaxretr.attack.victim import Victim
from jaxretr.model.encode import Encoder
from jaxretr.model.functions import EncoderFunctions
from tests.attack.parallel_questions import encoder, victim

OPTIONS = AttackOptions(steps=30)


@dataclasses.dataclass(frozen=True)
class TurnedRound(EncoderFunctions):
    """The same embeddings, the opposite gradient."""

    def encode(self, params, embeds, mask, key=None):
        encoded = super().encode(params, embeds, mask, key)
        return 2 * jax.lax.stop_gradient(encoded) - encoded


def checked(subject: Victim) -> dict[str, Check]:
    return {check.name: check for check in strength_checks(subject, OPTIONS, 4)}


@pytest.mark.slow
def test_an_honest_model_passes_every_check() -> None:
    found = checked(victim("mono"))
    assert len(found) == 13
    may_fail = {"core has converged after 30 steps"}  # depends on effort
    assert not [(check.name, check.says) for check in found.values() if not check.passed and check.name not in may_fail]
    budgets, lost = found["PGD finds what FGM finds"].curves["PGD"]
    assert budgets[-1] == 3 and lost[-1] == 1


@pytest.mark.slow
def test_a_model_that_turns_its_gradient_round_is_found_out() -> None:
    made = encoder().functions
    turned = TurnedRound(made.architecture, made.dtype, made.remat, made.dropout_rate)
    masked = Encoder(turned, encoder().params, encoder().tokenizer, query_prefix="query: ", passage_prefix="passage: ")
    found = checked(dataclasses.replace(victim("mono"), encoder=masked))
    assert not found["gradients beat 10,000 random points"].passed
    assert not found["every query falls at rho = 3"].passed
    assert not found["core finds what black box finds"].passed


def test_nothing_to_lose_is_an_error() -> None:
    subject = victim("multi")
    lost = dataclasses.replace(subject, queries=-subject.queries)
    with pytest.raises(ValueError, match="none of the first 4 queries of any task .* check with more queries"):
        checked(lost)
