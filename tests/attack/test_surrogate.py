"""Attacks optimized on one model and measured on another."""

import dataclasses
import json
from functools import cache
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxretr.attack.language import language_switch
from jaxretr.attack.options import AttackOptions
from jaxretr.attack.record import Record
from jaxretr.attack.registry import measure_attack_scale
from jaxretr.attack.result import AttackResult, load_results
from jaxretr.attack.run import attack_into
from jaxretr.attack.surrogate import Surrogate, check_transfer, transfer
from jaxretr.attack.text.attack import text_attack
from jaxretr.attack.text.prompts import prompt_attack
from jaxretr.attack.victim import Victim, margin
from jaxretr.eval.results import Results
from jaxretr.model.encode import Encoder
from jaxretr.perturb.text import homoglyphs
from jaxretr.types import RetrievalSet
from tests import tiny
from tests.attack.parallel_questions import collection, encoder, victim
from tests.attack.test_prompts import prompted

OPTIONS = AttackOptions(
    attacks=("pgd", "homoglyphs", "prompts", "language_switch", "hotflip"),
    rho=(0.1, 1.0),
    steps=3,
    edits=2,
    texts=6,
    slots=4,
    poison_passes=150,
)


@cache
def other() -> Encoder:
    """A model with the surrogate's tokens, and other word vectors of twice their length."""
    made = encoder()
    table = np.array(made.params["embeddings"]["word"]["embedding"])
    noise = np.random.default_rng(5).standard_normal(table.shape).astype(np.float32)
    embeddings = {**made.params["embeddings"], "word": {"embedding": 2 * (table + 0.5 * noise)}}
    params = {**made.params, "embeddings": embeddings}
    return Encoder(made.functions, params, made.tokenizer, query_prefix="query: ", passage_prefix="passage: ")


@cache
def attacked() -> Victim:
    return Victim.of(other(), collection(), "multi")


@cache
def latin() -> RetrievalSet:
    """The collection without Greek queries: no word of the tiny tokenizer is in Greek script, so none can poison."""
    kept = tuple(query for query in collection().queries if query.language != "el")
    return dataclasses.replace(collection(), queries=kept)


def run(
    output_dir: Path,
    model: Encoder,
    surrogate: Encoder | None,
    options: AttackOptions = OPTIONS,
    asked: RetrievalSet | None = None,
) -> Results:
    return attack_into(
        output_dir,
        model,
        asked or latin(),
        options,
        setting="multi",
        system="B",
        run_settings={},
        measures=("AP",),
        surrogate=Surrogate("A", surrogate) if surrogate else None,
    )


@pytest.mark.slow
def test_from_a_model_to_itself_is_the_attack_itself(tmp_path: Path) -> None:
    plain, moved = run(tmp_path / "plain", encoder(), None), run(tmp_path / "moved", encoder(), encoder())
    for one, same in zip(plain.settings["multi"].tasks, moved.settings["multi"].tasks, strict=True):
        assert one.per_query.keys() == same.per_query.keys()
        for name, values in one.per_query.items():
            np.testing.assert_array_equal(same.per_query[name], values, err_msg=name)
    first, second = Record.load(tmp_path / "plain"), Record.load(tmp_path / "moved")
    assert first.trials == second.trials and first.transfer == second.transfer
    assert moved.system == second.system == "A → B"
    assert second.threat_model["surrogate"] == ("white box on the surrogate A; the attacked model answers no question")
    identity = json.loads((tmp_path / "moved" / "attack.json").read_text())
    assert identity["surrogate_fingerprint"] == encoder().fingerprint
    again = run(tmp_path / "moved", encoder(), encoder())
    assert again.scalars() == moved.scalars()
    with pytest.raises(ValueError, match="surrogate_fingerprint was"):
        run(tmp_path / "moved", encoder(), other())


@pytest.mark.slow
def test_the_attacked_model_meets_the_surrogates_inputs(tmp_path: Path) -> None:
    options = AttackOptions(attacks=("pgd", "homoglyphs"), rho=(0.1, 1.0), steps=10, texts=6)
    results = run(tmp_path, other(), encoder(), options, collection())
    clean = run(tmp_path / "own", other(), None, options, collection())
    record = Record.load(tmp_path)
    for task, own in zip(results.settings["multi"].tasks, clean.settings["multi"].tasks, strict=True):
        np.testing.assert_array_equal(task.per_query["AP"], own.per_query["AP"])
    moved, white_box = results.settings["multi"].measures, clean.settings["multi"].measures
    assert moved["homoglyphs@1 AP"] > white_box["homoglyphs@1 AP"]
    assert moved["pgd@0.1 robust_success@10"] > white_box["pgd@0.1 robust_success@10"]
    scales = [measure_attack_scale(one, options).row_norm for one in (victim(), attacked())]
    assert record.row_norm == pytest.approx(scales[1]) and scales[1] > 1.5 * scales[0]
    for trial in record.trials:
        theirs = load_results(tmp_path / "surrogate", trial, victim().tasks)
        ours = load_results(tmp_path, trial, victim().tasks)
        for a, b in zip(theirs, ours, strict=True):
            np.testing.assert_array_equal(a.forward_passes, b.forward_passes)
            if trial.attack == "homoglyphs":
                assert a.texts == b.texts
                np.testing.assert_allclose(b.embeddings, other().encode_query(b.texts), atol=1e-5)
            else:
                assert trial.facts["epsilon"] == pytest.approx(trial.budget * scales[1])
                check_deltas(a, b, scales[1] / scales[0])


def check_deltas(a: AttackResult, b: AttackResult, ratio: float) -> None:
    texts = [query.text for query in attacked().queries_of(b.task)]
    for row, ids in enumerate(other().query_tokenization(texts)):
        np.testing.assert_allclose(b.deltas[row], ratio * a.deltas[row], rtol=1e-5)
        tokens, mask = jnp.array([ids]), jnp.ones((1, len(ids)), bool)
        vectors = other().functions.embed_tokens(other().params, tokens) + b.deltas[row]
        expected = other().functions.encode(other().params, vectors, mask)[0]
        np.testing.assert_allclose(b.embeddings[row], expected, atol=1e-5)


def test_no_text_of_a_surrogate_is_worse_than_the_worst_of_all() -> None:
    gains = {}
    for task in victim().tasks:
        candidates, corpus = attacked().candidates(task), attacked().corpus(task)
        from_a, from_b = (
            text_attack(one, task, homoglyphs, search="worst_of_k", budget=1000, margin_k=3)
            for one in (victim(), attacked())
        )
        moved = transfer(attacked(), from_a, layer="word", scaling=1.0)
        gains[task.query_language] = [margin(r.embeddings, corpus, candidates, 3) for r in (moved, from_b)]
    for transferred, own in gains.values():
        assert (transferred <= own + 1e-5).all()
    assert any((transferred < own - 1e-3).any() for transferred, own in gains.values())


def test_languages_and_prompts_keep_the_surrogates_choice() -> None:
    task = victim().tasks[0]
    switched = language_switch(victim(), task, margin_k=3)
    moved = transfer(attacked(), switched, layer="word", scaling=1.0)
    positions = [
        next(i for i, query in enumerate(collection().queries) if query.text == text) for text in switched.texts
    ]
    np.testing.assert_array_equal(moved.embeddings, attacked().queries[positions])
    prompts = prompt_attack(victim(), task, margin_k=3)
    without = Victim.of(prompted("", ""), collection(), "multi")
    moved = transfer(without, prompts, layer="word", scaling=1.0)
    assert moved.prompts == prompts.prompts and not moved.changed.any()
    np.testing.assert_array_equal(moved.embeddings, without.queries[task.queries])


def test_errors() -> None:
    words = tiny.tokenizer(tiny.WORDS[:60])
    fewer = Encoder(encoder().functions, encoder().params, words, max_length=20)
    surrogate = Surrogate("A", fewer)
    message = (
        r"pgd does not transfer from A to B: it perturbs token vectors.*A and B differ in vocabulary: 60 tokens and "
        r"127 tokens; prompts: .*; max_length: 20 and 38. Leave it out: --attack typos"
    )
    with pytest.raises(ValueError, match=message):
        check_transfer(surrogate, encoder(), "B", AttackOptions(attacks=("pgd", "typos")))
    with pytest.raises(ValueError, match="Choose a text attack"):
        check_transfer(surrogate, encoder(), "B", AttackOptions(attacks=("pgd",)))
    check_transfer(surrogate, encoder(), "B", AttackOptions(attacks=("typos", "hotflip")))
    with pytest.raises(ValueError, match="language_direction does not transfer from A to B: it moves the vectors"):
        check_transfer(Surrogate("A", other()), encoder(), "B", AttackOptions(attacks=("language_direction",)))
