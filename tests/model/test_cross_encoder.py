"""The cross-encoder against sentence-transformers' CrossEncoder (golden/make_reranker_golden.py)."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxretr.model.cross_encoder import CrossEncoder, Ranked
from jaxretr.model.encode import Encoder

GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "xlm_roberta_reranker.npz"))
PAIRS: list[tuple[str, str]] = [tuple(pair) for pair in json.loads(str(GOLDEN["pairs"]))]  # type: ignore[misc]
ATOL = 1e-5
CONFIG, SAVED = "config.json", "config_sentence_transformers.json"


def write(directory: Path, changes: dict[str, dict[str, Any] | None]) -> Path:
    """The model as sentence-transformers saved it; `changes` replaces values of its files, None removes a file."""
    for name, text in json.loads(str(GOLDEN["files"])).items():
        change = changes.get(name, {})
        if change is not None:
            content = json.loads(text)
            (directory / name).write_text(json.dumps(content | change if change else content), encoding="utf-8")
    weights = {name.removeprefix("weights/"): a for name, a in GOLDEN.items() if name.startswith("weights/")}
    save_file(weights, directory / "model.safetensors")
    return directory


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    return lambda **changes: write(tmp_path, {name.replace("_json", ".json"): one for name, one in changes.items()})


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> CrossEncoder:
    return CrossEncoder.load(write(tmp_path_factory.mktemp("reranker"), {}))


def test_pairs_are_tokenized_and_truncated_as_by_sentence_transformers(reranker: CrossEncoder) -> None:
    pairs = reranker.tokenization.pairs(PAIRS)
    assert [pair.ids for pair in pairs] == [[id for id in row if id >= 0] for row in GOLDEN["ids"].tolist()]
    lengths = [len(first.split()) + len(second.split()) + 4 for first, second in PAIRS]
    assert [pair.truncated for pair in pairs] == [length > 16 for length in lengths]
    assert reranker.max_length == 16 and 16 in lengths and 17 in lengths


def test_logits_and_scores_equal_those_of_pytorch(reranker: CrossEncoder) -> None:
    logits = reranker.predict(PAIRS, activation="identity")
    assert logits.dtype == np.float32 and np.ptp(GOLDEN["logits"]) > 1
    np.testing.assert_allclose(logits, GOLDEN["logits"], atol=ATOL, rtol=0)
    np.testing.assert_allclose(reranker.predict(PAIRS), GOLDEN["scores"], atol=ATOL, rtol=0)


def test_a_score_does_not_depend_on_the_other_pairs(reranker: CrossEncoder) -> None:
    order = np.random.default_rng(0).permutation(16) % len(PAIRS)  # no more pairs than the padded batch of all has
    scores = reranker.predict([PAIRS[place] for place in order])
    np.testing.assert_allclose(scores, GOLDEN["scores"][order], atol=ATOL, rtol=0)
    assert reranker.predict([]).shape == (0,)


@pytest.mark.slow
def test_bfloat16_is_close(model: Callable[..., Path]) -> None:
    scores = CrossEncoder.load(model(), dtype="bfloat16").predict(PAIRS)
    assert 0 < np.abs(scores - GOLDEN["scores"]).max() < 0.05


def test_documents_are_ranked_for_a_query(reranker: CrossEncoder) -> None:
    query, documents = PAIRS[0][0], [document for _, document in PAIRS[:6]]
    scores = reranker.predict(query, documents)
    np.testing.assert_array_equal(scores, reranker.predict([(query, document) for document in documents]))
    best = sorted(range(6), key=lambda place: -scores[place])
    assert reranker.rank(query, documents, top_k=4) == [Ranked(place, float(scores[place])) for place in best[:4]]
    ties = reranker.rank(query, ["w1", "w1", "w1"])
    assert [one.document for one in ties] == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "sigmoid"),
        ({SAVED: {"activation_fn": "torch.nn.modules.linear.Identity"}}, "identity"),
        ({SAVED: None}, "sigmoid"),
        ({SAVED: None, CONFIG: {"sentence_transformers": {"activation_fn": "torch.nn.Identity"}}}, "identity"),
        (
            {SAVED: None, CONFIG: {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}},
            "identity",
        ),
        ({CONFIG: {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}}, "sigmoid"),
    ],
)
def test_the_saved_activation_is_used(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    reranker = CrossEncoder.load(write(tmp_path, changes))
    golden = GOLDEN["scores" if expected == "sigmoid" else "logits"]
    np.testing.assert_allclose(reranker.predict(PAIRS), golden, atol=ATOL, rtol=0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({CONFIG: {"id2label": {"0": "no", "1": "yes"}}}, "config.json has 2 labels .* expected 1 label"),
        ({CONFIG: {"model_type": "bert"}}, "model_type 'bert'; expected 'xlm-roberta'"),
        ({CONFIG: {"hidden_act": "relu"}}, "hidden_act 'relu'"),
        ({SAVED: {"activation_fn": "torch.nn.modules.activation.Tanh"}}, "activation 'torch.nn.modules.activation.T"),
        ({SAVED: {"activation_fn": "my_code.Sigmoid"}}, "activation 'my_code.Sigmoid'; expected torch.nn's Sigmoid"),
        ({SAVED: {"model_type": "SparseEncoder"}}, "describes a SparseEncoder; expected a CrossEncoder"),
        ({SAVED: {"default_prompt_name": "query"}}, "puts the prompt 'query' before each pair"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        CrossEncoder.load(write(tmp_path, changes))


def test_a_model_of_another_kind_is_refused(model: Callable[..., Path], encoder: Encoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "encoder")
    config = json.loads((tmp_path / "encoder" / CONFIG).read_text()) | {"id2label": {"0": "LABEL_0"}}
    (tmp_path / "encoder" / CONFIG).write_text(json.dumps(config))
    (tmp_path / "encoder" / SAVED).unlink()
    (tmp_path / "encoder" / "modules.json").unlink()
    with pytest.raises(ValueError, match=re.escape("missing: classifier.dense.bias, classifier.dense.weight")):
        CrossEncoder.load(tmp_path / "encoder")
    saved = model(**{SAVED: None, "modules.json": None})
    with pytest.raises(ValueError, match=r"unexpected: classifier\.dense.*load it with CrossEncoder"):
        Encoder.load(saved)


def test_a_tokenizer_that_joins_pairs_in_another_way_is_refused(model: Callable[..., Path]) -> None:
    directory = model()
    content = json.loads((directory / "tokenizer.json").read_text())
    content["post_processor"]["pair"] = content["post_processor"]["pair"][:2] + content["post_processor"]["pair"][3:]
    (directory / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=re.escape("joins two empty texts as [0, 2, 2]; expected <s></s></s></s>")):
        CrossEncoder.load(directory)


def test_lengths_are_checked(model: Callable[..., Path]) -> None:
    directory = model()
    assert CrossEncoder.load(directory, max_length=6).tokenization.pairs(PAIRS)[-1].ids == [0, 7, 2, 2, 73, 2]
    with pytest.raises(ValueError, match="max_length is 19, expected more than the 4 special tokens of a pair and at"):
        CrossEncoder.load(directory, max_length=19)
    with pytest.raises(ValueError, match="max_length is 4"):
        CrossEncoder.load(directory, max_length=4)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("query", "document"), "documents is 'document'; expected a list"),
        (("query",), "expected either a list of pairs"),
        (([("q", "d")], ["d"]), "expected either a list of pairs"),
        (([("q", "d"), ("q", None)],), r"pair 1 is \('q', None\); expected two strings"),
        ((["qd"],), "pair 0 is 'qd'"),
    ],
)
@pytest.mark.usefixtures("as_users_run")
def test_bad_pairs_get_a_clear_error(reranker: CrossEncoder, arguments: Any, expected: str) -> None:
    with pytest.raises(TypeError, match=expected):
        reranker.predict(*arguments)
    with pytest.raises(ValueError, match="top_k is 0, expected at least 1"):
        reranker.rank("q", ["d"], top_k=0)
