import contextlib
import dataclasses
import errno
import fnmatch
import json
import os
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest

from jaxretr.model import hf_layout
from jaxretr.model.encode import Encoder
from jaxretr.model.hf_layout import SavedSettings, find_model, read_settings, replaced_directory, write_settings
from jaxretr.model.weights import load_params


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
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        find_model(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert find_model(str(tmp_path)) == tmp_path
    for path in (tmp_path / "absent", "./absent/model", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="no model directory at "):
            find_model(path)
    with pytest.raises(FileNotFoundError, match=r"neither a directory .* nor available from the model hub"):
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
    with pytest.raises(FileExistsError, match="is not a saved model"), replaced_directory(tmp_path):
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


class Interrupted(BaseException):
    """As Ctrl-C raises: no `Exception`."""


def content(path):
    return (path / "config.json").read_text(), (path / "weights").read_text()


def replace(path, text):
    with replaced_directory(path) as new:
        (new / "config.json").write_text(text)
        (new / "weights").write_text(text)


@pytest.mark.parametrize("exchangeable", [True, False])
@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("call", range(12))
def test_interrupted_at_any_call_the_old_model_or_the_new_one_is_there(
    tmp_path, monkeypatch, call, after, exchangeable
):
    """Before or after each call that changes the disk, with and without a file system that exchanges names."""
    path = tmp_path / "model"
    replace(path, "old")
    calls = []

    def interruptible(function):
        def called(*args, **kwargs):
            calls.append(function)
            if len(calls) == call + 1 and not after:
                raise Interrupted
            result = function(*args, **kwargs)
            if len(calls) == call + 1:
                raise Interrupted
            return result

        return called

    def unsupported(first, second):
        raise OSError(errno.EINVAL, "Invalid argument")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interruptible(os.fsync))
        patch.setattr(os, "rename", interruptible(os.rename))
        patch.setattr(hf_layout, "exchange", interruptible(hf_layout.exchange if exchangeable else unsupported))
        with contextlib.suppress(Interrupted):
            replace(path, "new")
    assert content(path) in (("old", "old"), ("new", "new"))
    assert list(tmp_path.iterdir()) == [path]
    replace(path, "newer")
    assert content(path) == ("newer", "newer")


KILLED = """
import os, sys
from jaxretr.model import hf_layout
call, exchangeable = int(sys.argv[2]), sys.argv[3] == "True"
rename, exchange, left = os.rename, hf_layout.exchange, [call]

def count(function):
    def called(*args):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), 9)
        return function(*args)
    return called

def unsupported(*_):
    raise OSError(22, "Invalid argument")

os.rename, hf_layout.exchange = count(rename), count(exchange if exchangeable else unsupported)
for text in ("old", "new"):
    with hf_layout.replaced_directory(sys.argv[1]) as new:
        (new / "config.json").write_text(text)
        (new / "weights").write_text(text)
"""


@pytest.mark.parametrize(("exchangeable", "calls"), [(True, (1, 2, 3)), (False, (4,))])
def test_killed_at_any_call_the_old_model_or_the_new_one_is_found(tmp_path, exchangeable, calls):
    for call in calls:
        path = tmp_path / str(call) / "model"
        killed = subprocess.run([sys.executable, "-c", KILLED, path, str(call), str(exchangeable)], check=False)
        assert killed.returncode in (-9, 0)
        if not exchangeable:
            assert not path.exists()  # between two renames
        assert content(find_model(path)) in (("old", "old"), ("new", "new"))


def test_a_new_model_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    events = []
    fsync, exchange = os.fsync, hf_layout.exchange

    def record(descriptor):
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    def record_exchange(*paths):
        events.append("exchange")
        exchange(*paths)

    path = tmp_path / "model"
    replace(path, "old")
    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(hf_layout, "exchange", record_exchange)
    replace(path, "new")
    new = events[0].parent
    assert events == [new / "config.json", new / "weights", new, "exchange", tmp_path] or events == [
        *(new / "weights", new / "config.json", new, "exchange", tmp_path)
    ]


def test_a_link_to_a_model_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "model")
    replace(tmp_path / "link", "old")
    replace(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "disk" / "model") == ("new", "new")


def test_what_is_put_into_the_directory_meanwhile_is_spared(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    with pytest.raises(FileExistsError, match="is not a saved model"), replaced_directory(path) as new:
        (new / "config.json").write_text("1")
        (path / "thesis.tex").write_text("years of work")
    assert (path / "thesis.tex").exists()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one repository, whose files are given by the test; snapshots hold what the patterns allow."""
    files: dict[str, str] = {}

    def download(name, *, allow_patterns):
        snapshot = tmp_path / "snapshot"
        for file, text in files.items():
            if any(fnmatch.fnmatch(file, pattern) for pattern in allow_patterns):
                (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
                (snapshot / file).write_text(text)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda name: sorted(files))
    return files


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"])
@pytest.mark.parametrize("load", [Encoder.load, load_params])
def test_a_hub_model_without_safetensors_comes_with_a_command_that_converts_it(hub, monkeypatch, weights, load):
    hub |= {"config.json": "{}", weights: "pickled", "vocab.txt": "a"}
    with pytest.raises(FileNotFoundError) as caught:
        load("some/model")
    message = str(caught.value)
    assert message.startswith(f"some/model has no model.safetensors, only {weights}, which needs PyTorch")
    command = message[message.index("python -c ") :]
    _, _, code = shlex.split(command)
    made = []
    package = types.ModuleType("sentence_transformers")

    class Model:
        def __init__(self, name):
            made.append(name)

        def save_pretrained(self, path):
            made.append(path)

    package.SentenceTransformer = Model
    monkeypatch.setitem(sys.modules, "sentence_transformers", package)
    exec(code)
    assert made == ["some/model", "models/model-safetensors"]
    assert "and give models/model-safetensors instead" in message


def test_a_hub_model_without_any_weights(hub, monkeypatch):
    hub |= {"config.json": "{}", "tf_model.h5": "x"}
    with pytest.raises(FileNotFoundError, match=r"some/model has no weights; expected model\.safetensors"):
        Encoder.load("some/model")

    def offline(name):
        raise ConnectionError("offline")

    monkeypatch.setattr("huggingface_hub.list_repo_files", offline)
    with pytest.raises(FileNotFoundError, match="some/model has no weights"):
        Encoder.load("some/model")


def test_a_dense_layer_without_safetensors_is_converted_with_its_model(tmp_path):
    for name, text in {
        "config.json": "{}",
        "model.safetensors": "",
        "modules.json": '[{"path": "2_Dense", "type": "x.Dense"}]',
        "2_Dense/config.json": '{"in_features": 2, "out_features": 2}',
        "2_Dense/pytorch_model.bin": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(
        FileNotFoundError, match=rf"2_Dense has no model\.safetensors, only pytorch_model\.bin, .*{tmp_path}.*save_pre"
    ):
        Encoder.load(tmp_path)
