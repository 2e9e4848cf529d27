"""Downloads from the Hugging Face hub, and one clear error within seconds where there is no network.

`HF_HUB_OFFLINE=1`, `HF_HOME` and `HF_TOKEN` work as everywhere. Only safetensors, JSON and tokenizer files are fetched.
"""

from __future__ import annotations

import logging
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from retort.errors import ModelError, NotFoundError

__all__ = ["download"]

logger = logging.getLogger(__name__)

ASK_TIMEOUT_S = 5.0
PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model", "README.md", "LICENSE", "1_Pooling/*", "2_Normalize/*"]
IGNORED = ["onnx/*", "openvino/*", "*/pytorch_model*", "*.bin"]


def download(ref: str) -> Path:
    """Return a local folder with the model `owner/name`, or `owner/name@revision`.

    Raises:
        NotFoundError: the hub has no such model or revision, or it needs a token.
        ModelError: it has no safetensors, or the hub cannot be reached and there is no earlier download.
    """
    repository, _, revision = ref.partition("@")
    if constants.HF_HUB_OFFLINE:
        return _cached(ref, "HF_HUB_OFFLINE is set")
    try:
        info = huggingface_hub.HfApi().model_info(repository, revision=revision or None, timeout=ASK_TIMEOUT_S)
    except GatedRepoError:
        raise NotFoundError(
            f"Model {ref!r} needs permission: accept its terms on huggingface.co and set HF_TOKEN."
        ) from None
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise NotFoundError(
            f"The Hugging Face hub has no model {ref!r} (or it is private): check the name, or set HF_TOKEN."
        ) from None
    except Exception as error:  # requests, httpx and sockets each have their own way to say that there is no network
        return _cached(ref, f"the hub cannot be reached ({type(error).__name__})")
    names = [item.rfilename for item in info.siblings or []]
    if not any(name.endswith(".safetensors") and "/" not in name for name in names):
        raise ModelError(
            f"Model {ref!r} has no weights in safetensors form, and pickled weights can run code. Convert it once with "
            "transformers (save_pretrained) and name that folder."
        )
    try:
        logger.info("downloading %s at %s", repository, info.sha)
        return Path(
            huggingface_hub.snapshot_download(
                repository, revision=info.sha, allow_patterns=PATTERNS, ignore_patterns=IGNORED
            )
        )
    except (OSError, HfHubHTTPError) as error:
        raise ModelError(
            f"The download of {ref!r} broke off ({type(error).__name__}: {error}). Run it again to go on."
        ) from None


def _cached(ref: str, why: str) -> Path:
    """Return an earlier download, or say that there is none."""
    repository, _, revision = ref.partition("@")
    try:
        return Path(huggingface_hub.snapshot_download(repository, revision=revision or None, local_files_only=True))
    except (LocalEntryNotFoundError, FileNotFoundError, ValueError):
        raise ModelError(
            f"Model {ref!r} is not on this machine and {why}. Name a local folder, an artefact of the store or "
            "'minilm', or download it where there is a network."
        ) from None
