"""Hugging Face folders to modules and tokenizers, in float32 and with our errors instead of tracebacks.

Only safetensors are read (a pickle can run code), remote code never runs, and nothing here reaches for a network:
`imports.py` does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from retort.errors import ModelError, NotFoundError

__all__ = ["load_model", "load_tokenizer", "max_positions", "quiet", "read_config", "read_json"]

UNBOUNDED = 100_000  # tokenizers without a limit say 1e30


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' bars and advice off the screen; errors come as exceptions."""
    logging: Any = transformers.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.ERROR)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object, {} where there is no such file.

    Raises:
        ModelError: the file is not a JSON object.
    """
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{path} is not JSON ({error}): expected a model's settings. Restore the file or the model."
        ) from None
    if not isinstance(value, dict):
        raise ModelError(
            f"{path} holds a {type(value).__name__}: expected a JSON object. Restore the file or the model."
        )
    return value


def read_config(folder: Path) -> PretrainedConfig:
    """Return the model's config.

    Raises:
        NotFoundError: no such folder. ModelError: the folder holds no model that transformers knows.
    """
    if not folder.is_dir():
        raise NotFoundError(
            f"There is no model folder {str(folder)!r}: expected a Hugging Face folder with config.json."
        )
    if not (folder / "config.json").exists():
        raise ModelError(f"{folder} has no config.json, so it is no Hugging Face model folder. Name one that has it.")
    read_json(folder / "config.json")
    if not any(folder.glob("*.safetensors")):
        others = ", ".join(sorted(path.name for path in folder.glob("*.bin"))) or "none"
        raise ModelError(
            f"{folder} has no weights in safetensors form (pickled weights: {others}), and a pickle can run code. "
            "Load it once with transformers and call save_pretrained(FOLDER)."
        )
    try:
        with quiet():
            config: PretrainedConfig = AutoConfig.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
            return config
    except (ValueError, OSError, KeyError, ImportError) as error:
        raise ModelError(f"transformers cannot read {folder / 'config.json'}: {_first_line(error)}") from None


def load_model(factory: Any, folder: Path, labels: int | None = None) -> tuple[PreTrainedModel, set[str]]:
    """Return (module in float32 and eval mode, names of weights that the folder does not hold).

    `factory` is a transformers Auto class; `labels` replaces the config's number of labels (then the head is a new
    one). Weights of float16 models become float32: CPUs are slow in float16, and a tuned difference of 1e-8 needs the
    room.

    Raises:
        NotFoundError, ModelError: as `read_config`; ModelError where the weights do not fit the config.
    """
    config = read_config(folder)
    if labels is not None:
        config.num_labels = labels
    try:
        with quiet():
            model, report = factory.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
    except (ValueError, OSError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(f"The model in {folder} cannot be loaded: {_first_line(error)}") from None
    mismatched = [str(item) for item in report.get("mismatched_keys") or ()]
    if mismatched:
        raise ModelError(f"The weights in {folder} do not fit its config.json: {', '.join(mismatched[:3])}.")
    model.eval()
    return model, set(report["missing_keys"])


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the folder's fast tokenizer.

    Raises:
        ModelError: there is none, or only a slow one without character offsets.
    """
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exception for files that it cannot parse
        raise ModelError(f"The tokenizer in {folder} cannot be loaded: {_first_line(error)}") from None
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"The tokenizer {type(tokenizer).__name__} in {folder} is a slow one without character offsets, which "
            "words are found by: expected one with a tokenizer.json. Save the model with a fast tokenizer first."
        )
    return tokenizer


def max_positions(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the longest sequence that model and tokenizer allow, in tokens."""
    limit = int(getattr(config, "max_position_embeddings", None) or UNBOUNDED)
    if config.model_type in {"roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl", "data2vec-text"}:
        limit -= int(config.pad_token_id or 0) + 1  # their positions start after the padding's index
    return max(1, min(limit, int(min(tokenizer.model_max_length, UNBOUNDED))))


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{text[0] if text else 'no reason given'} ({type(error).__name__})"
