"""mteb's own evaluation, on data made here, is the reference; `uv run --group mteb pytest -m mteb` has it."""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxretr.eval import evaluate
from jaxretr.eval.mteb_encoder import MTEBEncoder, revision
from jaxretr.model.encode import Encoder
from jaxretr.model.functions import init_params
from jaxretr.types import Passage, Query, RetrievalSet
from tests import tiny

CODES = {"en": ["eng-Latn"], "de": ["deu-Latn"], "el": ["ell-Grek"]}  # of tiny.LANGUAGES, as mteb names languages
TASK = {"task_metadata": None, "hf_split": "test", "hf_subset": "default"}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return tiny.encoder()


@pytest.fixture(scope="module")
def collection() -> RetrievalSet:
    """Graded judgements, every other passage with a title, and questions that nothing was judged for."""
    random = np.random.default_rng(0)

    def say(language: str, words: int) -> str:
        return " ".join(f"{language}{meaning}" for meaning in random.integers(0, tiny.MEANINGS, words))

    return RetrievalSet(
        "local",
        tuple(Query(f"q{i}", language, say(language, 3)) for language in CODES for i in range(14)),
        tuple(
            Passage(f"p{i}", language, say(language, 6), title=say(language, 4) if i % 2 else "")
            for language in CODES
            for i in range(40)
        ),
        {
            f"q{i}": {
                f"{language}:p{j}": grade
                for language in CODES
                for j, grade in zip(random.choice(40, 8, replace=False), (2, 2, 1, 1, 1, 1, 0, 0), strict=True)
            }
            for i in range(12)
        },
    )


def ours(collection: RetrievalSet, encoder: Encoder) -> dict[str, dict[str, float]]:
    """nDCG@10 by language, then by question."""
    results = evaluate(
        collection, encoder.encode_query, encoder.encode_document, settings=("mono",), measures=("nDCG@10",)
    )
    return {
        task.query_language: {
            id.partition(":")[2]: value for id, value in zip(task.query_ids, task.per_query["nDCG@10"], strict=True)
        }
        for task in results.settings["mono"].tasks
    }


def local_task(collection: RetrievalSet) -> Any:
    """`collection` as an mteb task with a subset for each language, which keeps the values per query."""
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    def subset(language: str) -> dict[str, Any]:
        queries = [query for query in collection.queries if query.language == language]
        return {
            "queries": Dataset.from_list([{"id": q.key, "text": q.text} for q in queries]),
            "corpus": Dataset.from_list(
                [{"id": p.key, "title": p.title, "text": p.text} for p in collection.passages if p.language == language]
            ),
            "relevant_docs": {
                q.key: {
                    id.partition(":")[2]: grade
                    for id, grade in collection.qrels.get(q.key, {}).items()
                    if id.startswith(f"{language}:")
                }
                for q in queries
            },
            "top_ranked": None,
        }

    class LocalTask(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="LocalRetrieval",
            description="A collection in memory.",
            dataset={"path": "local/collection", "revision": "1"},
            type="Retrieval",
            category="t2t",
            eval_langs={language: CODES[language] for language in collection.languages},
            main_score="ndcg_at_10",
        )

        def load_data(self, **_: Any) -> None:
            self.dataset = {language: {"test": subset(language)} for language in collection.languages}
            self.data_loaded = True
            self.per_query: dict[str, dict[str, float]] = {}

        def task_specific_scores(self, scores: Any, *_: Any, hf_subset: str, **__: Any) -> dict[str, float]:
            self.per_query[hf_subset] = {query: values["ndcg_cut_10"] for query, values in scores.items()}
            return {}

    return LocalTask()


def run(model: MTEBEncoder, task: Any, cache: Path) -> Any:
    import mteb

    task.load_data()  # so that mteb does not unload what the task keeps
    return mteb.evaluate(model, task, cache=mteb.ResultCache(cache), show_progress_bar=False).task_results[0]


@pytest.mark.mteb
def test_ndcg_equals_ours(collection: RetrievalSet, encoder: Encoder, tmp_path: Path) -> None:
    task = local_task(collection)
    result = run(MTEBEncoder(encoder, name="jaxretr/tiny"), task, tmp_path)
    expected = ours(collection, encoder)
    assert task.per_query.keys() == expected.keys() == CODES.keys()
    for language, values in expected.items():
        assert len(values) == 12 and len(set(values.values())) > 6
        assert task.per_query[language] == pytest.approx(values, abs=1e-9)
    # mteb rounds what it reports to five decimals.
    reported = {scores["hf_subset"]: scores["ndcg_at_10"] for scores in result.scores["test"]}
    means = {language: np.mean([*values.values()]) for language, values in expected.items()}
    assert reported == pytest.approx(means, abs=5.1e-6)
    assert result.get_score() == pytest.approx(np.mean([*means.values()]), abs=5.1e-6)


@pytest.mark.mteb
def test_mteb_counts_a_question_judged_only_irrelevant_as_zero(encoder: Encoder, tmp_path: Path) -> None:
    """Where figures may differ: here the question is left out, as nothing answers it."""
    collection = RetrievalSet(
        "local",
        (Query("answered", "en", "en1"), Query("unanswered", "en", "en2")),
        (Passage("p0", "en", "en1 en3"), Passage("p1", "en", "en2 en4")),
        {"answered": {"en:p0": 1}, "unanswered": {"en:p1": 0}},
    )
    task = local_task(collection)
    run(MTEBEncoder(encoder, name="jaxretr/tiny"), task, tmp_path)
    expected = ours(collection, encoder)["en"]
    assert expected.keys() == {"answered"} and expected["answered"] > 0
    assert task.per_query["en"] == pytest.approx(expected | {"unanswered": 0})


@pytest.mark.mteb
def test_stored_results_serve_the_same_weights_only(collection: RetrievalSet, encoder: Encoder, tmp_path: Path) -> None:
    model = MTEBEncoder(encoder, name="jaxretr/tiny")
    first = run(model, local_task(collection), tmp_path)
    (stored,) = tmp_path.rglob("LocalRetrieval.json")
    assert (stored.parent.name, stored.parent.parent.name) == (revision(encoder), "jaxretr__tiny")

    again = local_task(collection)
    assert run(model, again, tmp_path).get_score() == first.get_score() > 0
    assert again.per_query == {}

    trained = Encoder(encoder.functions, init_params(tiny.TINY, jax.random.key(1)), encoder.tokenizer)
    task = local_task(collection)
    run(MTEBEncoder(trained, name="jaxretr/tiny"), task, tmp_path)
    assert task.per_query.keys() == CODES.keys()
    assert len([*tmp_path.rglob("LocalRetrieval.json")]) == 2


@pytest.mark.mteb
def test_each_role_has_its_prefix_and_batches_keep_their_order(encoder: Encoder) -> None:
    from mteb.types import PromptType

    model = MTEBEncoder(encoder, name="jaxretr/tiny")
    batches, texts = [{"text": ["en1", "en2 en3"]}, {"text": ["de4"]}], ["en1", "en2 en3", "de4"]
    queries, passages = encoder.encode_query(texts), encoder.encode_document(texts)
    assert np.abs(queries - passages).max() > 0.01
    np.testing.assert_array_equal(model.encode(batches, prompt_type=PromptType.query, **TASK), queries)
    np.testing.assert_array_equal(model.encode(batches, prompt_type=PromptType.document, **TASK), passages)
    np.testing.assert_array_equal(model.encode(batches, **TASK), queries)
    with pytest.raises(ValueError, match="precision is 'int8', but the embeddings are float32; leave"):
        model.encode(batches, precision="int8", **TASK)


@pytest.mark.mteb
def test_similarities_are_cosines_of_either_library(encoder: Encoder) -> None:
    import torch
    from mteb.similarity_functions import cos_sim, pairwise_cos_sim

    model = MTEBEncoder(encoder, name="jaxretr/tiny")
    a, b = encoder.encode_query(["en1", "en2 en3"]), encoder.encode_document(["de1", "de2"])
    for first, second in ((a, b), (torch.tensor(a), torch.tensor(b))):
        np.testing.assert_allclose(model.similarity(first, second), cos_sim(a, b), atol=1e-6)
        np.testing.assert_allclose(model.similarity_pairwise(first, second), pairwise_cos_sim(a, b), atol=1e-6)
        assert float(model.similarity(first[0], second[1])) == pytest.approx(float(cos_sim(a, b)[0, 1]), abs=1e-6)


@pytest.mark.mteb
def test_what_mteb_knows_of_the_model(encoder: Encoder) -> None:
    from mteb import EncoderProtocol, SearchProtocol

    model = MTEBEncoder(encoder, name="jaxretr/tiny")
    assert isinstance(model, EncoderProtocol) and not isinstance(model, SearchProtocol)
    meta = model.mteb_model_meta
    assert (meta.name, meta.revision, meta.framework) == ("jaxretr/tiny", revision(encoder), ["JAX"])
    assert (meta.embed_dim, meta.max_tokens, meta.use_instructions) == (16, 38, True)
    assert meta.n_parameters - meta.n_active_parameters == tiny.TINY.vocab_size * 16
    with pytest.raises(ValueError, match="'organization/model_name'.*input_value='tiny'"):
        MTEBEncoder(encoder, name="tiny")


def test_the_revision_names_the_model_and_not_where_it_lies(encoder: Encoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "model")
    assert revision(Encoder.load(tmp_path / "model")) == revision(encoder)
    others = [
        Encoder.load(tmp_path / "model", query_prefix=""),
        Encoder.load(tmp_path / "model", max_length=8),
        Encoder.load(tmp_path / "model", dtype="bfloat16"),
        Encoder(
            encoder.functions,
            init_params(tiny.TINY, jax.random.key(1)),
            encoder.tokenizer,
            query_prefix=encoder.query_prefix,
            passage_prefix=encoder.passage_prefix,
        ),
    ]
    assert len({revision(each) for each in [encoder, *others]}) == 5


def test_without_mteb_the_error_names_the_remedy(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mteb.models", None)
    with pytest.raises(ImportError, match="uv run --group mteb"):
        MTEBEncoder(encoder, name="jaxretr/tiny")
