"""Metadata of cards, and the upload of models. A stand-in takes the place of the hub."""

import dataclasses
import fnmatch
import shutil
import types
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.repocard import metadata_load

from jaxretr.model.encode import Encoder
from jaxretr.model.hub import read_card, read_metadata, write_card

TEXTS = ["the quick fox", "лиса"]


@dataclasses.dataclass
class FakeHub:
    """Repositories as directories below `root`; `error` is raised by every call."""

    root: Path
    calls: list[tuple[str, dict]] = dataclasses.field(default_factory=list)
    error: Exception | None = None

    def api(self, token: str | None) -> "FakeHub":
        self.calls.append(("HfApi", {"token": token}))
        return self

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> types.SimpleNamespace:
        self._call("create_repo", repo_id=repo_id, private=private, exist_ok=exist_ok)
        repo_id = repo_id if "/" in repo_id else f"me/{repo_id}"  # as the hub does
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return types.SimpleNamespace(repo_id=repo_id)

    def file_exists(self, repo_id: str, name: str) -> bool:
        return (self.root / repo_id / name).exists()

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, commit_message: str, delete_patterns: list[str]
    ) -> types.SimpleNamespace:
        self._call("upload_folder", repo_id=repo_id, commit_message=commit_message)
        repository = self.root / repo_id
        for file in [path for path in repository.rglob("*") if path.is_file()]:
            if any(fnmatch.fnmatch(str(file.relative_to(repository)), pattern) for pattern in delete_patterns):
                file.unlink()
        shutil.copytree(folder_path, repository, dirs_exist_ok=True)
        return types.SimpleNamespace(commit_url=f"https://hub.example/{repo_id}/commit/1")

    def _call(self, name: str, **arguments) -> None:
        self.calls.append((name, arguments))
        if self.error:
            raise self.error


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    made = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", made.api)
    return made


def test_an_uploaded_model_loads_again(encoder: Encoder, hub: FakeHub) -> None:
    address = encoder.push_to_hub("me/model", private=True, token="hf_x", commit_message="First")
    assert address == "https://hub.example/me/model/commit/1"
    assert hub.calls == [
        ("HfApi", {"token": "hf_x"}),
        ("create_repo", {"repo_id": "me/model", "private": True, "exist_ok": True}),
        ("upload_folder", {"repo_id": "me/model", "commit_message": "First"}),
    ]
    loaded = Encoder.load(hub.root / "me/model")
    np.testing.assert_array_equal(loaded.encode_query(TEXTS), encoder.encode_query(TEXTS))
    np.testing.assert_array_equal(loaded.encode_document(TEXTS), encoder.encode_document(TEXTS))


def test_the_card_of_a_loaded_model_is_uploaded(encoder: Encoder, hub: FakeHub, tmp_path: Path) -> None:
    encoder.save(tmp_path / "model", "---\nlicense: mit\n---\n# A card\n")
    Encoder.load(tmp_path / "model").push_to_hub("me/model")
    assert (hub.root / "me/model/README.md").read_text("utf-8") == "---\nlicense: mit\n---\n# A card\n"


def test_a_model_without_a_card_gets_a_minimal_one(encoder: Encoder, hub: FakeHub) -> None:
    encoder.push_to_hub("model")
    card = hub.root / "me/model/README.md"
    assert metadata_load(card)["pipeline_tag"] == "sentence-similarity"
    assert metadata_load(card).keys() == {"library_name", "pipeline_tag", "tags"}
    assert 'SentenceTransformer("me/model")' in card.read_text("utf-8")


def test_an_upload_keeps_other_files_and_removes_old_weights(encoder: Encoder, hub: FakeHub) -> None:
    repository = hub.root / "me/model"
    repository.mkdir(parents=True)
    old = ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model.bin"]
    for name in [*old, "README.md", "figure.png"]:
        (repository / name).write_text("old")
    encoder.push_to_hub("me/model")
    names = {path.name for path in repository.iterdir()}
    assert not names & set(old) and "model.safetensors" in names
    assert (repository / "README.md").read_text() == (repository / "figure.png").read_text() == "old"


@pytest.mark.parametrize("error", [HTTPError("no route"), ConnectionError("no route")])
def test_without_a_network_the_error_says_what_to_do(encoder: Encoder, hub: FakeHub, error: Exception) -> None:
    hub.error = error
    with pytest.raises(ConnectionError, match=r"'me/model': no route.*HF_HUB_OFFLINE.*hf upload me/model DIRECTORY"):
        encoder.push_to_hub("me/model")


def test_offline_the_error_says_what_to_do(encoder: Encoder) -> None:
    """With the hub's own client: tests set HF_HUB_OFFLINE."""
    with pytest.raises(ConnectionError, match="cannot reach the model hub .*unset HF_HUB_OFFLINE"):
        encoder.push_to_hub("me/model")
    with pytest.raises(ValueError, match="not a name"):
        encoder.push_to_hub("not a name")


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_refusal_names_the_remedy(encoder: Encoder, hub: FakeHub, status: int) -> None:
    hub.error = HfHubHTTPError("refused", response=types.SimpleNamespace(status_code=status, headers={}, request=None))
    if status == 500:
        with pytest.raises(HfHubHTTPError, match="refused"):
            encoder.push_to_hub("me/model")
    else:
        with pytest.raises(PermissionError, match="'me/model': refused.*hf auth login"):
            encoder.push_to_hub("me/model")


@pytest.mark.parametrize("card", [None, "# No metadata", "---\n[broken\n---\n", "---\n- a list\n---\n", "---\n\n---\n"])
def test_a_card_without_usable_metadata_has_none(card: str | None) -> None:
    assert read_metadata(card) == {}


def test_metadata_is_read_and_written(tmp_path: Path) -> None:
    assert read_card(tmp_path) is None
    card = write_card("# Body\n", language=["no", "en"], license="mit", model_name='a "b": c')
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    assert read_card(tmp_path) == card
    metadata = read_metadata(card)
    assert metadata["language"] == ["no", "en"] and metadata["license"] == "mit"
    assert metadata["model_name"] == 'a "b": c'
    assert card.endswith("---\n\n# Body\n")
