"""ONNX Runtime as a second way to run a model's forward pass on a CPU.

    Backend          "torch", "onnx" (float32: the same numbers within rounding) or "onnx-int8" (faster, a little off)
    onnx_graph       a model's graph: exported once per machine and weights, kept in the node cache
    faster_backend   "torch" or "onnx", by timing both once per machine and architecture

In int8 the weights are rounded per channel once (to 7 bits where the processor would cut sums of 8 off), the activations per
batch as they come: a text's numbers then depend a little on the texts beside it. So int8 is never chosen by itself. Training and word maps always run in torch.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib.util
import io
import json
import logging
import os
import platform
import shutil
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from retort.errors import ConfigError, ModelError
from retort.models.backend import Precision
from retort.models.flat import Body, lay_out
from retort.store import cache_root

__all__ = ["Backend", "OnnxGraph", "check_backend", "faster_backend", "onnx_graph", "onnx_installed", "weights_digest"]

log = logging.getLogger(__name__)

Backend = Literal["torch", "onnx", "onnx-int8"]
Output = Literal["last_hidden_state", "logits"]

PACKAGES = ("onnxruntime", "onnx", "onnxscript")
_LAYOUT = "v2"
_TRIAL_SHAPE = (8, 128)  # [texts, tokens] that both backends are timed on
_TRIALS = 5


class OnnxGraph:
    """A forward pass in ONNX Runtime; call it with the model's inputs."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Open a graph made by `onnx_graph`; `threads`: torch's number where it is not given."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        # Threads that spin while they wait take the cores from Ray's other processes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._names = [item.name for item in self._session.get_inputs()]

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the model's output for int64 inputs [texts, tokens] on the CPU."""
        found = self._session.run(None, {name: inputs[name].numpy() for name in self._names})
        return torch.from_numpy(found[0])


class _Forward(nn.Module):
    """A model's forward pass with inputs by position and one output, which is what an exporter traces."""

    def __init__(self, model: PreTrainedModel, names: tuple[str, ...], output: Output) -> None:
        super().__init__()
        self.model, self._names, self._output = model, names, output

    def forward(self, *values: Tensor) -> Tensor:
        result: Tensor = getattr(self.model(**dict(zip(self._names, values, strict=True))), self._output)
        return result


def onnx_installed() -> bool:
    """Whether the packages are there."""
    return all(importlib.util.find_spec(name) is not None for name in PACKAGES)


def check_backend(backend: str, device: torch.device) -> None:
    """Refuse a backend that is not there.

    Raises:
        ConfigError: an unknown name, ONNX Runtime on a GPU, or packages that are not installed.
    """
    if backend not in get_args(Backend):
        raise ConfigError(f"Backend {backend!r} is unknown: expected {', '.join(map(repr, get_args(Backend)))}.")
    if backend == "torch":
        return
    if device.type != "cpu":
        raise ConfigError(f"Backend {backend!r} runs on the CPU, and this model is on {device}. Use torch there.")
    if not onnx_installed():
        raise ConfigError(f'Backend {backend!r} needs {", ".join(PACKAGES)}: pip install "retort[cpu]".')


def onnx_graph(
    model: PreTrainedModel, output: Output, *, types: bool = False, int8: bool = False, threads: int | None = None
) -> OnnxGraph:
    """Return the model's graph, exporting it if this machine has not done so before (some 15 s).

    Args:
        model: in float32 on the CPU; it is not changed.
        output: which of its outputs.
        types: whether token types are an input.
        int8: round weights and activations to 8 bits.
        threads: of ONNX Runtime.

    Raises:
        ModelError: the exporter cannot trace this architecture.
    """
    name = "model.onnx" if not int8 else "model.int8-reduced.onnx" if _saturates() else "model.int8.onnx"
    folder = cache_root() / "onnx" / f"{weights_digest(model, output, types)}-{_LAYOUT}"
    if not (folder / name).exists():
        _make(model, output, types, int8, folder, name)
    return OnnxGraph(folder / name, threads)


def weights_digest(model: PreTrainedModel, output: str, types: bool) -> str:
    """Return 32 hex characters that change with the weights, the architecture or what is exported."""
    digest = hashlib.sha256()
    digest.update(json.dumps([type(model).__name__, output, types, torch.__version__]).encode())
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key}{tuple(value.shape)}".encode())
        digest.update(value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def _make(model: PreTrainedModel, output: Output, types: bool, int8: bool, folder: Path, name: str) -> None:
    """Write a graph into the cache, whole or not at all: another process may be doing the same."""
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / f".{uuid.uuid4().hex[:8]}"
    work.mkdir()
    try:
        plain = folder / "model.onnx"
        if not plain.exists():
            _export(model, output, types, work / "model.onnx")
            (work / "model.onnx").replace(plain)
        if int8:
            _quantise(plain, work / name, reduced=_saturates())
            (work / name).replace(folder / name)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _export(model: PreTrainedModel, output: Output, types: bool, path: Path) -> None:
    names = ("input_ids", "attention_mask") + (("token_type_ids",) if types else ())
    traced = copy.deepcopy(model).eval()  # type: ignore[no-untyped-call]
    traced.set_attn_implementation("eager")
    ids = torch.arange(1, 3 * 17 + 1).reshape(3, 17) % max(2, int(model.config.vocab_size) - 1)
    example = (ids, torch.ones_like(ids), torch.zeros_like(ids))[: len(names)]
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with _quiet():
        try:
            program = torch.onnx.export(
                _Forward(traced, names, output),
                example,
                None,
                input_names=list(names),
                output_names=["output"],
                dynamic_shapes=((free,) * len(names),),
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            # One file, so that it appears in the cache whole: protobuf's limit is 2 GB, far above a student's weights.
            program.save(str(path), external_data=False)
        except Exception as error:
            raise ModelError(
                f"{type(model).__name__} cannot be exported to ONNX ({str(error).splitlines()[0][:160]}). Use backend torch."
            ) from error


def _saturates() -> bool:
    """Whether this processor adds products of 8 bits in 16, so that sums of large weights are cut off: x86 without VNNI."""
    # An older torch does not tell; 7 bits are right everywhere.
    told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return is_x86 and not (told.get("avx512_vnni") or told.get("avx_vnni"))


def _quantise(plain: Path, path: Path, *, reduced: bool) -> None:
    """Round to 8 bits; `reduced`: weights to 7, for processors on which 8 saturate."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(str(plain))
    # The exporter transposes the weights of a one-logit head and leaves their old shape behind; the quantiser infers shapes anew.
    del graph.graph.value_info[:]
    with _quiet():
        quantize_dynamic(graph, path, weight_type=QuantType.QInt8, per_channel=True, reduce_range=reduced)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and its warnings about itself from the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def faster_backend(
    model: PreTrainedModel, output: Output, precision: Precision = "fp32", *, types: bool = False, packed: bool = False
) -> Backend:
    """Return "onnx" where it is faster than torch in `precision` for this architecture on this machine, else "torch".

    `packed` says that torch would run with the weights laid out for inference (`flat.py`). Timed once per
    architecture, machine and number of threads, on one batch of 8 x 128 tokens; kept in the node cache.
    """
    if not onnx_installed() or next(model.parameters()).device.type != "cpu":
        return "torch"
    record = _record(model, precision, packed)
    with contextlib.suppress(OSError, ValueError, KeyError):
        return "onnx" if json.loads(record.read_text())["speedup"] > 1.0 else "torch"
    try:
        graph = onnx_graph(model, output, types=types)
    except ModelError as error:
        log.info("%s", error)
        return "torch"
    texts, tokens = _TRIAL_SHAPE
    # Less two: some architectures begin to count positions behind their padding.
    ids = torch.full((texts, min(tokens, int(getattr(model.config, "max_position_embeddings", tokens + 2)) - 2)), 5)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if types:
        inputs["token_type_ids"] = torch.zeros_like(ids)
    laid_out = lay_out(copy.deepcopy(model), precision) if packed else None
    speedup = _compare(model, laid_out, graph, inputs, precision)
    log.info("ONNX Runtime is %.2f times as fast as torch in %s; kept in %s", speedup, precision, record)
    with contextlib.suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        temporary = record.with_suffix(f".{uuid.uuid4().hex[:8]}.part")
        temporary.write_text(json.dumps({"speedup": round(speedup, 4)}))
        temporary.replace(record)
    return "onnx" if speedup > 1.0 else "torch"


def _compare(
    model: PreTrainedModel, laid_out: Body | None, graph: OnnxGraph, inputs: dict[str, Tensor], precision: str
) -> float:
    from retort.models.backend import autocast

    def in_torch() -> object:
        return model(**inputs) if laid_out is None else laid_out(inputs["input_ids"], inputs["attention_mask"])

    best = {"torch": float("inf"), "onnx": float("inf")}
    with torch.inference_mode(), autocast(precision, "cpu"):
        # In turns, and the best of each: another process's burst then hits both.
        for trial in range(_TRIALS + 1):
            for name, run in (("torch", in_torch), ("onnx", lambda: graph(inputs))):
                began = time.perf_counter()
                run()
                if trial:
                    best[name] = min(best[name], time.perf_counter() - began)
    return best["torch"] / best["onnx"]


def _record(model: PreTrainedModel, precision: str, packed: bool) -> Path:
    import onnxruntime

    settings: dict[str, Any] = model.config.to_dict()
    settings.pop("_name_or_path", None)
    what = [sorted(map(str, settings.items())), precision, "laid out" if packed else "", torch.get_num_threads(), torch.__version__,
            onnxruntime.__version__, torch.backends.cpu.get_cpu_capability(), os.cpu_count()]  # fmt: skip
    return cache_root() / "backend" / f"onnx-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]}.json"
