"""A saved model on the model hub: the metadata of its card, and its upload.

Input: a card (README.md with YAML metadata) or the directory of a saved model. Output: metadata that the hub reads, or
a commit in a repository of the hub.
"""

from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import ModelCardData
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.repocard import REGEX_YAML_BLOCK, ModelCard

from jaxretr.tracking import say

CARD = "README.md"

_WEIGHTS_OF_OLD_MODELS = [
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model*.index.json",
]
_USAGE = """```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{name}")
queries = model.encode(["…"], prompt_name="query")
passages = model.encode(["…"], prompt_name="document")
scores = model.similarity(queries, passages)
```"""


def read_card(directory: Path) -> str | None:
    """Return the card of a saved model, or None if the directory has none."""
    path = directory / CARD
    return path.read_text("utf-8-sig", errors="replace") if path.is_file() else None


def read_metadata(card: str | None) -> dict[str, Any]:
    """Return the metadata of a card; {} if there is no card or if its metadata is damaged."""
    if card is None or not REGEX_YAML_BLOCK.search(card):
        return {}
    try:
        return ModelCard(card, ignore_metadata_errors=True).data.to_dict()
    except Exception as error:  # the YAML parser has its own errors
        say(f"the metadata of a model card is ignored: {str(error).splitlines()[0]}")
        return {}


def write_card(body: str, **metadata: Any) -> str:
    """Return a card with `metadata` (fields of `ModelCardData`) before `body`."""
    data = ModelCardData(
        **metadata,
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "feature-extraction", "dense-retrieval", "cross-lingual", "jaxretr"],
    )
    return f"---\n{data.to_yaml()}\n---\n\n{body}"


def usage(name: str) -> str:
    """Return a Markdown example of how to use the model with sentence-transformers."""
    return _USAGE.format(name=name)


def upload_model(directory: Path, repo_id: str, *, private: bool | None, token: str | None, commit_message: str) -> str:
    """Upload a saved model in one commit, which also deletes the weight files of an older model; see `push_to_hub`.

    If neither the directory nor the repository has a card, a minimal card is written.

    Returns:
      The address of the commit.
    """
    api = huggingface_hub.HfApi(token=token)
    try:
        repository = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if not (directory / CARD).exists() and not api.file_exists(repository, CARD):
            card = write_card(f"# {repository}\n\nA dense retriever, saved by jaxretr.\n\n{usage(repository)}\n")
            (directory / CARD).write_text(card, encoding="utf-8")
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=directory,
            commit_message=commit_message,
            delete_patterns=_WEIGHTS_OF_OLD_MODELS,
        )
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 403):
            raise
        raise PermissionError(
            f"the model hub does not allow a write to {repo_id!r}: {error}. Log in with `hf auth login`, or give a "
            "token with write access to this repository"
        ) from error
    except (HTTPError, ConnectionError) as error:
        raise ConnectionError(
            f"cannot reach the model hub to upload to {repo_id!r}: {error}. Check the network and unset "
            "HF_HUB_OFFLINE; or save the model with `Encoder.save`, and upload the directory from another machine with "
            f"`hf upload {repo_id} DIRECTORY`"
        ) from error
    return str(commit.commit_url)
