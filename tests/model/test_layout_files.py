"""What a saved model says about itself, as sentence-transformers would read it: honoured, noted or refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from jaxretr.model.encode import Encoder
from jaxretr.model.hf_layout import find_model, read_settings

TYPES = "sentence_transformers.models."


def write(directory: Path, **files: Any) -> Path:
    """Files by their names without the ending."""
    for name, content in files.items():
        path = directory / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return directory


def prompted(directory: Path, **config: Any) -> tuple[str, str, tuple[str, ...]]:
    found = read_settings(write(directory, config_sentence_transformers=config))
    return found.query_prefix, found.passage_prefix, found.notes


def modules(*paths: str) -> list[dict[str, str]]:
    return [{"path": path, "type": TYPES + path.rpartition("_")[2]} for path in paths]


@pytest.mark.parametrize(
    ("prompts", "default", "query", "passage"),
    [
        ({"query": "Q: ", "corpus": "D: "}, None, "Q: ", "D: "),
        ({"query": "Q: ", "passage": "P: ", "corpus": "D: "}, None, "Q: ", "P: "),
        ({"query": "Q: ", "document": "T: ", "passage": "P: "}, None, "Q: ", "T: "),
        ({"query": "Q: ", "document": ""}, "query", "Q: ", ""),
        ({"query": "Q: "}, "query", "Q: ", "Q: "),
        ({"any": "A: "}, "any", "A: ", "A: "),
        ({"any": "A: ", "corpus": "D: "}, "any", "A: ", "D: "),
        ({"query": None, "document": None}, None, "", ""),
        ({"query": None, "any": "A: "}, "any", "A: ", "A: "),
        ({}, None, "", ""),
        (None, None, "", ""),
    ],
)
def test_prompts_are_chosen_as_sentence_transformers_does(
    tmp_path: Path, prompts: Any, default: str | None, query: str, passage: str
) -> None:
    assert prompted(tmp_path, prompts=prompts, default_prompt_name=default)[:2] == (query, passage)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"prompts": ["query: "]}, r"has the prompts \['query: '\]; expected an object of names and texts"),
        ({"prompts": {"query": 3}}, r"has the prompts \{'query': 3\}"),
        ({"prompts": {"query": "Q"}, "default_prompt_name": "sts"}, "default prompt 'sts'; its prompts are query"),
        ({"default_prompt_name": "sts"}, "default prompt 'sts'; its prompts are none"),
        ({"model_type": "SparseEncoder"}, "describes a SparseEncoder; expected a SentenceTransformer"),
        ({"truncate_dim": 64}, "cuts embeddings to 64 dimensions"),
    ],
)
def test_prompts_that_cannot_be_honoured(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"config_sentence_transformers\.json .*{message}"):
        prompted(tmp_path, **config)


@pytest.mark.parametrize(
    ("config", "normalize", "notes"),
    [
        ({"prompts": {"query": "Q", "sts": "S", "none": ""}}, True, ["the prompts sts in CONFIG are not used"]),
        ({"similarity_fn_name": "cosine", "truncate_dim": None}, False, []),
        ({"similarity_fn_name": None, "default_prompt_name": None, "prompts": None}, False, []),
        ({"similarity_fn_name": "dot"}, True, []),
        ({"similarity_fn_name": "dot"}, False, ["CONFIG asks for the similarity dot; cosine similarity is used"]),
        (
            {"similarity_fn_name": "manhattan"},
            True,
            ["CONFIG asks for the similarity manhattan; cosine similarity is"],
        ),
        ({"__version__": {"pytorch": "2"}, "model_type": "SentenceTransformer"}, True, []),
        ({"something_new": True}, True, ["something_new in CONFIG has no effect"]),
    ],
)
def test_what_is_not_honoured_is_noted(
    tmp_path: Path, config: dict[str, Any], normalize: bool, notes: list[str]
) -> None:
    kinds = modules("", "1_Pooling", *(["2_Normalize"] if normalize else []))
    kinds[0]["type"] = f"{TYPES}Transformer"
    write(tmp_path, modules=kinds, **{"1_Pooling__config": {"pooling_mode_mean_tokens": True, "include_prompt": None}})
    found = prompted(tmp_path, **config)[2]
    assert len(found) == len(notes)
    for note, expected in zip(found, notes, strict=True):
        assert note.startswith(expected.replace("CONFIG", "config_sentence_transformers.json"))


@pytest.mark.parametrize(
    ("bert", "tokenizer", "tokens"),
    [
        ({"max_seq_length": 64}, {"model_max_length": 32}, 64),
        ({"max_seq_length": None}, {"model_max_length": 32.0}, 32),
        ({}, {"model_max_length": 1e30}, None),
        ({}, {"model_max_length": 1000000000000000019884624838656}, None),
        ({}, {"model_max_length": None}, None),
        ({"max_seq_length": float("inf")}, {}, None),
    ],
)
def test_length(tmp_path: Path, bert: Any, tokenizer: Any, tokens: int | None) -> None:
    for name in ("sentence_bert_config", "sentence_xlm-roberta_config"):
        found = read_settings(write(tmp_path / name, **{name: bert, "tokenizer_config": tokenizer}))
        assert found.max_seq_length == tokens and isinstance(found.max_seq_length, int | None)
        assert found.notes == ()


@pytest.mark.parametrize("length", ["128", 0, -1, True, float("nan"), [128]])
def test_a_length_that_is_none(tmp_path: Path, length: Any) -> None:
    with pytest.raises(ValueError, match=r"sentence_bert_config\.json has max_seq_length = .*; expected a number of"):
        read_settings(write(tmp_path, sentence_bert_config={"max_seq_length": length}))
    with pytest.raises(ValueError, match=r"tokenizer_config\.json has model_max_length = "):
        read_settings(write(tmp_path, sentence_bert_config={}, tokenizer_config={"model_max_length": length}))


def test_lower_case_is_the_tokenizers_business(tmp_path: Path) -> None:
    write(tmp_path, sentence_bert_config={"do_lower_case": True, "max_seq_length": 8})
    with pytest.raises(ValueError, match=r"sentence_bert_config\.json asks to lower-case texts"):
        read_settings(tmp_path)
    assert read_settings(write(tmp_path, tokenizer_config={"do_lower_case": True})).notes == ()


def test_settings_of_the_tokenizer_and_the_transformer_that_are_not_honoured(tmp_path: Path) -> None:
    bert = {"max_seq_length": 8, "do_lower_case": False, "model_args": {"x": 1}, "tokenizer_args": {}}
    honoured = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}
    write(tmp_path, sentence_bert_config=bert | honoured, tokenizer_config={"truncation_side": "left"})
    assert read_settings(tmp_path).notes == (
        "model_args in sentence_bert_config.json has no effect",
        "tokenizer_config.json asks to keep the end of long texts; the encoder keeps the beginning",
    )
    write(tmp_path, sentence_bert_config={"transformer_task": "fill-mask"}, tokenizer_config={})
    assert read_settings(tmp_path).notes == ("transformer_task in sentence_bert_config.json has no effect",)


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ({}, "contains a dict, expected a list"),
        (["Pooling"], "lists 'Pooling'; expected an object with the type and the path"),
        ([{"path": "1_Pooling"}], "expected an object with the type"),
        (modules("1_Pooling", "2_Pooling"), r"second module of type .*Pooling"),
        (
            modules("1_Normalize", "2_Pooling"),
            "orders its modules Normalize, Pooling; expected the order Transformer, P",
        ),
        (modules("1_WordWeights"), "module of type 'sentence_transformers.models.WordWeights'"),
        (modules("0_Transformer"), "keeps the transformer in 0_Transformer; .* Save the model again"),
    ],
)
def test_modules_that_cannot_be_honoured(tmp_path: Path, listed: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"modules\.json .*{message}"):
        read_settings(write(tmp_path, modules=listed))


@pytest.mark.parametrize("module", ["1_Pooling", "2_Dense"])
def test_a_module_whose_files_are_absent_is_named(tmp_path: Path, module: str) -> None:
    write(tmp_path, modules=modules(module))
    with pytest.raises(
        ValueError, match=rf"modules\.json names .*{module}/config\.json, which is absent; download the"
    ):
        read_settings(tmp_path)
    write(tmp_path, **{f"{module}__config": None})
    with pytest.raises(ValueError, match="which is absent"):
        read_settings(tmp_path)


def test_null_means_absent_in_a_module(tmp_path: Path) -> None:
    pooling = {"pooling_mode": None, "pooling_mode_cls_token": True, "include_prompt": None}
    dense = {"in_features": 16, "out_features": 5, "bias": None, "activation_function": None}
    write(tmp_path, modules=modules("1_Pooling", "2_Dense"))
    write(tmp_path, **{"1_Pooling__config": pooling, "2_Dense__config": dense})
    found = read_settings(tmp_path)
    assert (found.pooling, found.dense_head) == ("cls", (16, 5))
    write(tmp_path, **{"2_Dense__config": {"in_features": 16}})
    with pytest.raises(ValueError, match=r"2_Dense/config\.json gives the widths \(16, None\)"):
        read_settings(tmp_path)


def test_modules_without_pooling_are_noted(tmp_path: Path) -> None:
    write(tmp_path, modules=[{"path": "", "type": f"{TYPES}Transformer"}])
    assert read_settings(tmp_path).notes == ("modules.json lists no Pooling module; mean pooling is used",)


def test_a_transformer_in_a_folder_of_its_own_is_named(tmp_path: Path) -> None:
    write(tmp_path, modules=modules("0_Transformer"), **{"0_Transformer__config": {}})
    with pytest.raises(ValueError, match="keeps the transformer in 0_Transformer"):
        find_model(tmp_path)


def test_notes_are_printed_once_when_a_model_is_loaded(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder.save(tmp_path / "model")
    config = tmp_path / "model" / "config_sentence_transformers.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"similarity_fn_name": "manhattan"}))
    said: list[str] = []
    monkeypatch.setattr("jaxretr.model.encode.say", said.append)
    Encoder.load(tmp_path / "model")
    assert said == [
        f"{tmp_path / 'model'}: config_sentence_transformers.json asks for the similarity manhattan; "
        "cosine similarity is used"
    ]
