"""One compiled search for triggers. Input: templates, an objective and allowed tokens. Output: token ids.

Every trigger of a batch is an independent search: it has its own texts, target and random key, and its result does not
depend on the other triggers. Triggers are spread over the devices. All candidates of an iteration are scored together.
The iterations run in `lax.scan`; the host synchronizes only between chunks of iterations.

    engine = Engine(encoder.functions, Similarity(), HOTFLIP)
    trace = search(encoder, engine, template, context, mask, forward_passes=10_000, seed=0)
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int, Int32, Key

from jaxretr import parallel
from jaxretr.attack.token.precision import FINALISTS
from jaxretr.attack.token.schedules import Schedule
from jaxretr.attack.token.template import Template
from jaxretr.model.functions import EncoderFunctions, Params

Objective = Callable[[Any, Array], Array]
"""(context, embeddings float32 [texts, dim]) -> float32 []; hashable, see `jaxretr.attack.token.objectives`."""

_TOKENS_AT_ONCE = {"cpu": 3_072, "gpu": 32_768, "tpu": 32_768}
"""Maximum number of tokens encoded together. On a CPU, smaller batches stay in the cache: batches of 50 texts of 55
tokens take a fifth less time than batches of 100."""


class Shared(NamedTuple):
    """Inputs that all triggers share; replicated on every device.

    Attributes:
      params: the encoder's parameters.
      allowed: token ids that a trigger may use.
      table: the word embeddings of these tokens.
    """

    params: Params
    allowed: Int32[Array, " allowed"]
    table: Float32[Array, "allowed hidden"]


class Problem(NamedTuple):
    """The search for one trigger; in a batch, every leaf has a leading `triggers` axis.

    Attributes:
      template: the texts that the trigger is part of.
      context: the context of the objective.
      key: random key of all draws of this search.
    """

    template: Template
    context: Any
    key: Key[Array, "*triggers"]


class State(NamedTuple):
    """State of a search.

    Attributes:
      ids: the best trigger so far.
      value: objective of the best trigger.
      tried: per position, the lowest estimate scored since the trigger last changed (see `Schedule.propose`).
    """

    ids: Int32[Any, "*triggers slots"]
    value: Float32[Any, "*triggers"]
    tried: Float32[Any, "*triggers slots"]


@dataclass(frozen=True)
class Engine:
    """Everything that determines the compiled program; hashable.

    Attributes:
      encoder: the encoder in float32. In a lower precision, candidates that differ little would tie.
      objective: the objective to maximize.
      schedule: the candidates of an iteration.
      finalists: the candidates of a round are ranked in bfloat16, and this number of the best are encoded again in
        float32 to select the best. If there are at most this many candidates, or with 0, nothing runs in bfloat16. See
        `jaxretr.attack.token.precision`.
    """

    encoder: EncoderFunctions
    objective: Objective
    schedule: Schedule
    finalists: int = FINALISTS

    def cost(self, slots: int, allowed: int) -> int:
        """Return the forward passes of an iteration per text of a trigger, including the passes of the finalists."""
        finalists = self.finalists if self.schedule.scored(slots, allowed) > self.finalists else 0
        return self.schedule.cost(slots, allowed) + self.schedule.rounds(slots) * finalists

    def passes(self, iterations: int, slots: int, allowed: int, texts: int = 1) -> int:
        """Return the forward passes of a search of `iterations` iterations for a trigger of `texts` texts."""
        return texts * (1 + iterations * self.cost(slots, allowed))

    def iterations(self, forward_passes: int, slots: int, allowed: int, texts: int = 1) -> int:
        """Return how many iterations `forward_passes` pay for, which is the inverse of `passes`."""
        return max(0, forward_passes // texts - 1) // self.cost(slots, allowed)

    def start(self, shared: Shared, problem: Problem) -> State:
        """Draw random allowed tokens. Costs one forward pass per text."""
        slots = problem.template.slots.shape[1]
        key = jax.random.fold_in(problem.key, 0)
        ids = shared.allowed[jax.random.randint(key, (slots,), 0, len(shared.allowed))]
        value = self.values(shared, problem, ids[None], at_once=1)[0]
        return State(ids, value, jnp.full(slots, jnp.inf))

    def step(self, shared: Shared, problem: Problem, state: State, iteration: Int[Array, ""], *, at_once: int) -> State:
        """Run iteration number `iteration`, counted from 1, of one trigger.

        Args:
          at_once: candidates encoded together.
        """
        flip_key, propose_key = jax.random.split(jax.random.fold_in(problem.key, iteration))
        gradient = self.gradient(
            shared,
            problem,
            _flipped(flip_key, state.ids, shared.allowed, self.schedule.gradient_flips),
            at_once=at_once,
        )
        proposals = self.schedule.propose(propose_key, gradient, shared.table, state.tried)

        def round_(current: State, proposed: tuple[Array, Array]) -> tuple[State, None]:
            positions, tokens = proposed
            candidates = jnp.tile(current.ids, (len(tokens), 1))
            candidates = candidates.at[jnp.arange(len(tokens)), positions].set(shared.allowed[tokens])
            best, value = self.best(shared, problem, candidates, at_once=at_once)
            better = value > current.value
            return State(
                jnp.where(better, best, current.ids), jnp.where(better, value, current.value), current.tried
            ), None

        state_after, _ = jax.lax.scan(round_, state, (proposals.positions, proposals.tokens))
        return state_after._replace(tried=jnp.where(state_after.value > state.value, jnp.inf, proposals.tried))

    def best(
        self, shared: Shared, problem: Problem, triggers: Int32[Array, "candidates slots"], *, at_once: int
    ) -> tuple[Int32[Array, " slots"], Float32[Array, ""]]:
        """Return the best candidate for one trigger, and its objective."""
        if 0 < self.finalists < len(triggers):
            in_bfloat16 = dataclasses.replace(self, encoder=dataclasses.replace(self.encoder, dtype="bfloat16"))
            ranked = in_bfloat16.values(shared, problem, triggers, at_once=at_once)
            triggers = triggers[jax.lax.top_k(ranked, self.finalists)[1]]
        values = self.values(shared, problem, triggers, at_once=at_once)
        best = jnp.argmax(values)
        return triggers[best], values[best]

    def values(
        self, shared: Shared, problem: Problem, triggers: Int32[Array, "candidates slots"], *, at_once: int
    ) -> Float32[Array, " candidates"]:
        """Return the objective of each candidate for one trigger."""
        embed = partial(self.encoder.embed_tokens, shared.params)

        def values_of(triggers: Array) -> Array:
            return self._objectives(shared, problem, jax.vmap(embed)(_filled(problem.template, triggers)))

        return in_parts(values_of, triggers, at_once)

    def gradient(
        self, shared: Shared, problem: Problem, triggers: Int32[Array, "samples slots"], *, at_once: int
    ) -> Float32[Array, "slots hidden"]:
        """Return the gradient of the objective with respect to the embeddings of the trigger's tokens, averaged over
        `triggers`."""
        rows = jnp.arange(len(problem.template.slots))[:, None]
        embed = partial(self.encoder.embed_tokens, shared.params)

        def gradients_of(triggers: Array) -> Array:
            embeds = jax.vmap(embed)(_filled(problem.template, triggers))

            def total(slots: Array) -> Array:
                filled = embeds.at[:, rows, problem.template.slots].set(slots[:, None])
                return self._objectives(shared, problem, filled).sum()

            return jax.grad(total)(embed(triggers))

        return jnp.mean(in_parts(gradients_of, triggers, at_once), axis=0)

    def _objectives(self, shared: Shared, problem: Problem, embeds: Array) -> Float32[Array, " candidates"]:
        """Compute objectives from word embeddings [candidates, texts, length, hidden]."""
        candidates, texts, length, hidden = embeds.shape
        mask = jnp.tile(jnp.asarray(problem.template.mask), (candidates, 1))
        encoded = self.encoder.encode(shared.params, embeds.reshape(candidates * texts, length, hidden), mask)
        return jax.vmap(partial(self.objective, problem.context))(encoded.reshape(candidates, texts, -1))


def _filled(template: Template, triggers: Int32[Array, "candidates slots"]) -> Int32[Array, "candidates texts length"]:
    """Return the template's token ids with each trigger in the slots of all texts."""
    ids, rows = jnp.asarray(template.ids), jnp.arange(len(template.slots))[:, None]
    return jax.vmap(lambda trigger: ids.at[rows, template.slots].set(trigger))(triggers)


def _flipped(key: Key[Array, ""], ids: Int32[Array, " slots"], allowed: Array, count: int) -> Array:
    """Return `count` copies of a trigger, each with one token replaced at random, or the trigger if `count` is 0."""
    if not count:
        return ids[None]
    position_key, token_key = jax.random.split(key)
    positions = jax.random.randint(position_key, (count,), 0, len(ids))
    tokens = jax.random.randint(token_key, (count,), 0, len(allowed))
    return jnp.tile(ids, (count, 1)).at[jnp.arange(count), positions].set(allowed[tokens])


def in_parts(function: Callable[[Array], Array], rows: Array, size: int) -> Array:
    """Compute `function(rows)` in equal parts of at most `size` rows."""
    parts = -(-len(rows) // size)
    if parts == 1:
        return function(rows)
    size = -(-len(rows) // parts)
    padded = jnp.concatenate([rows, jnp.repeat(rows[-1:], parts * size - len(rows), axis=0)])
    results = jax.lax.map(function, padded.reshape(parts, size, *rows.shape[1:]))
    return results.reshape(parts * size, *results.shape[2:])[: len(rows)]


def at_once(template: Template) -> int:
    """Return the number of candidates per trigger that a device encodes together."""
    devices = parallel.local_device_count()
    triggers, texts, length = template.ids.shape
    tokens = _TOKENS_AT_ONCE[jax.default_backend()]
    return max(1, tokens // (-(-triggers // devices) * texts * length))


@lru_cache(maxsize=16)
def compiled_start(engine: Engine) -> Callable[[Shared, Problem], State]:
    """Compile (shared, problems) -> states, with the leading axes of `parallel.split`."""
    start = jax.vmap(engine.start, in_axes=(None, 0))
    return parallel.pmap(start, in_axes=(None, 0), devices=jax.local_devices())


@lru_cache(maxsize=16)
def compiled_chunk(engine: Engine, iterations: int, at_once: int) -> Callable[..., tuple[State, State]]:
    """Compile (shared, problems, states, iterations done, total iterations) -> new states, and the states after each
    iteration.

    Iterations beyond the last one do nothing, so all chunks of a search share a compilation.
    """
    step = jax.vmap(partial(engine.step, at_once=at_once), in_axes=(None, 0, 0, None))

    def chunk(shared: Shared, problems: Problem, states: State, done: Array, last: Array) -> tuple[State, State]:
        def iterate(states: State, iteration: Array) -> tuple[State, State]:
            states = jax.lax.cond(iteration <= last, lambda: step(shared, problems, states, iteration), lambda: states)
            return states, states

        states, path = jax.lax.scan(iterate, states, done + 1 + jnp.arange(iterations))
        return states, jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), path)

    return parallel.pmap(chunk, in_axes=(None, 0, 0, None, None), devices=jax.local_devices())
