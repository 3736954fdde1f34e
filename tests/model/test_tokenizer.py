import dataclasses
import json

import pytest
from transformers import PreTrainedTokenizerFast

from jaxretr.model.tokenizer import check_tokenizer, load_tokenizer, save_tokenizer


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_round_trip_keeps_the_pipeline_and_drops_call_state(directory, tokenizer):
    tokenizer(["one", "two three"], padding=True, truncation=True, max_length=3)  # leaves its settings in the backend
    save_tokenizer(tokenizer, directory, max_length=40)
    saved = json.loads((directory / "tokenizer.json").read_text())
    assert saved["truncation"] is None
    assert saved["padding"] is None
    assert json.loads((directory / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    loaded = load_tokenizer(directory)
    assert (loaded.pad_token_id, loaded.model_max_length) == (1, 40)
    for text in ("The quick fox ", "  лиса  ", "", "狐狸 is"):
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_fit(tokenizer, architecture):
    check_tokenizer(tokenizer, architecture)
    with pytest.raises(ValueError, match="the model's table has 60 rows"):
        check_tokenizer(tokenizer, dataclasses.replace(architecture, vocab_size=60))
    with pytest.raises(ValueError, match="pads with 1, but the model's pad_token_id is 0"):
        check_tokenizer(tokenizer, dataclasses.replace(architecture, pad_token_id=0))
    check_tokenizer(tokenizer, dataclasses.replace(architecture, model_type="bert", pad_token_id=0))
    with pytest.raises(ValueError, match="no padding token"):
        check_tokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer), architecture)


def test_missing_or_damaged(directory):
    with pytest.raises(FileNotFoundError, match=r"expected one of tokenizer\.json"):
        load_tokenizer(directory)
    (directory / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(ValueError, match="cannot be read"):
        load_tokenizer(directory)
