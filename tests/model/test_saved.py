import dataclasses
import json

import pytest

from jaxretr.model.saved import SavedSettings, find_model, read_settings, replaced_directory, write_settings


def write(directory, architecture):
    write_settings(directory, architecture, max_seq_length=40, query_prefix="query: ", passage_prefix="passage: ")


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_round_trip(tmp_path, architecture, pooling):
    architecture = dataclasses.replace(architecture, pooling=pooling, dense_head=(16, 5))
    write(tmp_path, architecture)
    assert read_settings(tmp_path) == SavedSettings(
        pooling=pooling,
        dense=tmp_path / "2_Dense",
        dense_head=(16, 5),
        max_seq_length=40,
        query_prefix="query: ",
        passage_prefix="passage: ",
    )


def test_layout_is_the_oldest_one(tmp_path, architecture):
    write(tmp_path, architecture)
    modules = json.loads((tmp_path / "modules.json").read_text())
    assert [module["type"] for module in modules] == [
        "sentence_transformers.models.Transformer",
        "sentence_transformers.models.Pooling",
        "sentence_transformers.models.Normalize",
    ]
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Normalize"]
    assert (tmp_path / "2_Normalize").is_dir()
    pooling = json.loads((tmp_path / "1_Pooling" / "config.json").read_text())
    assert pooling["word_embedding_dimension"] == 16
    assert [name for name, value in pooling.items() if value is True] == ["pooling_mode_mean_tokens", "include_prompt"]


def test_plain_transformers_directory(tmp_path):
    assert read_settings(tmp_path) == SavedSettings()


def test_layout_of_newer_versions(tmp_path):
    (tmp_path / "modules.json").write_text(
        json.dumps(
            [{"path": "1_Pooling", "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling"}]
        )
    )
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"embedding_dimension": 16, "pooling_mode": "max"}')
    (tmp_path / "config_sentence_transformers.json").write_text('{"prompts": {"query": "q", "passage": "p"}}')
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 77}')
    expected = SavedSettings(pooling="max", max_seq_length=77, query_prefix="q", passage_prefix="p")
    assert read_settings(tmp_path) == expected


@pytest.mark.parametrize(
    ("module", "config", "message"),
    [
        ("models.LSTM", {}, "module of type 'models.LSTM'"),
        ("models.Pooling", {"pooling_mode_lasttoken": True}, "lasttoken"),
        ("models.Pooling", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "one of mean"),
        ("models.Pooling", {"pooling_mode": "mean", "include_prompt": False}, "excludes the prompt"),
        ("models.Dense", {"activation_function": "torch.nn.modules.linear.Identity"}, "tanh"),
    ],
)
def test_what_the_encoder_cannot_compute(tmp_path, module, config, message):
    (tmp_path / "modules.json").write_text(json.dumps([{"path": "1", "type": module}]))
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        read_settings(tmp_path)


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "modules.json").write_text("[{")
    with pytest.raises(ValueError, match=r"modules\.json is not valid JSON"):
        read_settings(tmp_path)


def test_find_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        find_model(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert find_model(str(tmp_path)) == tmp_path
    for path in (tmp_path / "absent", "./absent/model", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="no model directory at "):
            find_model(path)
    with pytest.raises(FileNotFoundError, match=r"neither a directory .* nor to be had from the model hub"):
        find_model("nobody/has-this-model")


def test_replaced_directory_is_all_or_nothing(tmp_path):
    path = tmp_path / "deep" / "model"
    with replaced_directory(path) as new:
        (new / "config.json").write_text("1")
        assert not path.exists()
    with pytest.raises(RuntimeError), replaced_directory(path) as new:
        (new / "config.json").write_text("2")
        raise RuntimeError
    assert (path / "config.json").read_text() == "1"
    with replaced_directory(path) as new:
        (new / "config.json").write_text("3")
    assert (path / "config.json").read_text() == "3"
    assert list(path.parent.iterdir()) == [path]
    assert oct(path.stat().st_mode)[-3:] == oct((path.parent).stat().st_mode)[-3:]


def test_replaced_directory_spares_what_is_no_model(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="is no saved model"), replaced_directory(tmp_path):
        pass
    assert (tmp_path / "thesis.tex").exists()


def test_of_two_writers_one_wins_whole(tmp_path):
    path = tmp_path / "model"
    with replaced_directory(path) as first, replaced_directory(path) as second:
        for new, content in ((first, "first"), (second, "second")):
            (new / "config.json").write_text(content)
            (new / "weights").write_text(content)
    assert (path / "config.json").read_text() == (path / "weights").read_text()
    assert list(tmp_path.iterdir()) == [path]
