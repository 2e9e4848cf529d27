"""A tuned file from its base and the delta, byte for byte, whatever bits the weights have; and what small moves cost."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from retort.cli import main
from retort.errors import CorruptError, IncompatibleError, InputError
from retort.models.dual_encoder import DualEncoder
from retort.tuning.delta import ENTRY, apply_delta, restore_encoder, write_delta
from retort.tuning.packing import from_codes, to_codes

from .worlds import tiny

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8)
SPECIAL = {
    torch.float32: [0x00000000, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFC12345, 0x00000001, 0x80000001],
    torch.float16: [0x0000, 0x8000, 0x7C00, 0xFC00, 0x7E00, 0x7C01, 0xFD55, 0x0001, 0x8001],
    torch.bfloat16: [0x0000, 0x8000, 0x7F80, 0xFF80, 0x7FC0, 0x7F81, 0xFFD5, 0x0001, 0x8001],
}  # fmt: skip


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def bits(dtype: torch.dtype, numbers: np.ndarray, shape: tuple[int, ...]) -> torch.Tensor:
    """Random bits as a tensor: NaNs with payloads, infinities, denormals and all."""
    width = torch.empty((), dtype=dtype).element_size()
    return torch.from_numpy(numbers.astype(f"<u{width}").copy()).view(dtype).reshape(shape)


@st.composite
def files(draw: st.DrawFn) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(base, tuned): tensors alike, moved a little, replaced, of other types and shapes, missing on either side, empty."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    base: dict[str, torch.Tensor] = {}
    tuned: dict[str, torch.Tensor] = {}
    for number in range(draw(st.integers(1, 5))):
        dtype = draw(st.sampled_from(DTYPES))
        shape = draw(st.sampled_from([(), (0,), (1,), (7,), (3, 0, 2), (5, 13), (64, 9)]))
        count = int(np.prod(shape))
        whole = rng.integers(0, 2**63, count, dtype=np.uint64)
        whole[: len(SPECIAL.get(dtype, []))] = SPECIAL.get(dtype, [])[:count]
        mine = bits(dtype, whole, shape)
        name = f"layer.{number}/odd name"
        fate = draw(st.sampled_from(["same", "moved", "other", "widened", "reshaped", "new", "gone"]))
        if fate != "new":
            base[name] = mine
        if fate == "moved":
            steps = rng.integers(-3, 4, count, dtype=np.int64).astype(np.uint64)
            tuned[name] = bits(dtype, whole + steps, shape)
        elif fate == "other":
            tuned[name] = bits(dtype, rng.integers(0, 2**63, count, dtype=np.uint64), shape)
        elif fate == "widened":
            tuned[name] = mine.float() if mine.is_floating_point() else mine.double()
        elif fate == "reshaped":
            tuned[name] = torch.cat([mine.reshape(-1), mine.reshape(-1)])
        elif fate != "gone":
            tuned[name] = mine
    return base, tuned


@given(files())
@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_tuned_file_comes_back_byte_for_byte(tmp_path: Path, pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    base, tuned = tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"
    save_file(pair[0], base)
    save_file(pair[1], tuned, metadata={"format": "pt"})
    stats = write_delta(base, tuned, tmp_path / "delta.safetensors")
    apply_delta(base, tmp_path / "delta.safetensors", tmp_path / "again.safetensors")
    assert sha256(tmp_path / "again.safetensors") == sha256(tuned) == stats["tuned_sha256"]
    assert stats["tensors"] == len(pair[1])


@given(st.lists(st.floats(width=32), min_size=2, max_size=50), st.integers(-5, 5))
def test_neighbouring_floats_have_small_codes(values: list[float], steps: int) -> None:
    numbers = np.array(
        [value for value in values if np.isfinite(value) and abs(value) < 1e38] or [1.0], dtype=np.float32
    )
    moved = numbers.copy()
    for _ in range(abs(steps)):
        moved = np.nextafter(moved, np.float32(np.sign(steps) * np.inf))
    codes = to_codes(moved.view("<u4"), numbers.view("<u4"), "F32")
    assert codes.max() <= 2 * (abs(steps) + 1), "one more where zero is crossed: it has two signs"
    assert np.array_equal(from_codes(codes, numbers.view("<u4"), "F32"), moved.view("<u4"))


def pair_of_files(tmp_path: Path, move: float, *, half: bool = False) -> tuple[Path, Path]:
    """A base and a tuned file of a million weights, of which half belong to a frozen tensor."""
    generator = torch.Generator().manual_seed(0)
    base = {
        "frozen": torch.randn(500, 1000, generator=generator) * 0.03,
        "moving": torch.randn(500, 1000, generator=generator) * 0.03,
    }
    if half:
        base = {name: tensor.half() for name, tensor in base.items()}
    tuned = {name: tensor.float() for name, tensor in base.items()}
    tuned["moving"] = tuned["moving"] + move * torch.randn(500, 1000, generator=generator)
    save_file(base, tmp_path / "base.safetensors")
    save_file(tuned, tmp_path / "tuned.safetensors")
    return tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"


@pytest.mark.parametrize("half", [False, True])
def test_what_did_not_move_costs_nothing_and_small_moves_cost_little(tmp_path: Path, half: bool) -> None:
    delta = tmp_path / "delta.safetensors"
    stats = write_delta(*pair_of_files(tmp_path, 1e-6, half=half), delta)
    assert (stats["changed_tensors"], stats["tensors"]) == (1, 2)
    assert stats["bytes_delta"] == delta.stat().st_size
    assert stats["ratio"] < 0.25, "half of the weights moved, by some 300 units in the last place: 10 of 32 bits"
    nothing = write_delta(*pair_of_files(tmp_path, 0.0, half=half), delta)
    assert nothing["changed_tensors"] == 0
    assert nothing["bytes_delta"] < 1000
    assert write_delta(*pair_of_files(tmp_path, 1e-9, half=half), delta)["ratio"] < 0.06


def test_the_delta_is_a_plain_safetensors_file(tmp_path: Path) -> None:
    delta = tmp_path / "delta.safetensors"
    write_delta(*pair_of_files(tmp_path, 1e-6), delta)
    with safe_open(delta, framework="pt") as handle:
        facts = json.loads(handle.metadata()[ENTRY])
        assert {handle.get_tensor(name).dtype for name in handle.keys()} == {torch.uint8}  # noqa: SIM118
    assert facts["base_sha256"] == sha256(tmp_path / "base.safetensors")
    assert list(facts["tensors"]) == ["moving"]
    first = delta.read_bytes()
    write_delta(*pair_of_files(tmp_path, 1e-6), delta)
    assert delta.read_bytes() == first


def test_another_base_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    base, tuned = pair_of_files(tmp_path, 1e-6)
    write_delta(base, tuned, tmp_path / "delta.safetensors")
    with pytest.raises(IncompatibleError, match=r"delta\.safetensors is a difference to .*tuned from"):
        apply_delta(tuned, tmp_path / "delta.safetensors", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_damaged_bytes_are_found(tmp_path: Path) -> None:
    base, tuned = pair_of_files(tmp_path, 1e-6)
    delta = tmp_path / "delta.safetensors"
    write_delta(base, tuned, delta)
    data = bytearray(delta.read_bytes())
    data[-1000] ^= 0xFF
    delta.write_bytes(data)
    with pytest.raises(CorruptError, match="Restore the file"):
        apply_delta(base, delta, tmp_path / "out.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "base.safetensors",
        "delta.safetensors",
        "tuned.safetensors",
    ]


def test_files_of_another_kind_are_refused_by_name(tmp_path: Path) -> None:
    base, tuned = pair_of_files(tmp_path, 1e-6)
    (tmp_path / "text").write_text("this is a text and no weights file at all")
    with pytest.raises(InputError, match="text is no safetensors file"):
        write_delta(tmp_path / "text", tuned, tmp_path / "delta")
    with pytest.raises(InputError, match="text is no delta"):
        apply_delta(base, tmp_path / "text", tmp_path / "out")
    with pytest.raises(InputError, match="tuned.safetensors is a safetensors file but no delta"):
        apply_delta(base, tuned, tmp_path / "out")


def test_a_whole_encoder_is_restored_with_its_bases_passage_space(tmp_path: Path) -> None:
    base = tiny(tmp_path / "base")
    with torch.no_grad():
        for weight in base.model.parameters():
            weight += 1e-4 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    space = tiny(tmp_path / "base").passage_space
    base.save(tmp_path / "tuned", passage_space=space)
    weights = "model.safetensors"
    write_delta(tmp_path / "base" / weights, tmp_path / "tuned" / weights, tmp_path / "delta.safetensors")
    restore_encoder(tmp_path / "base", tmp_path / "delta.safetensors", tmp_path / "again")
    assert sha256(tmp_path / "again" / weights) == sha256(tmp_path / "tuned" / weights)
    again = DualEncoder.load(tmp_path / "again", device="cpu", precision="fp32")
    assert again.passage_space == space
    assert np.array_equal(again.encode(["amber birch"], "query"), base.encode(["amber birch"], "query"))
    assert {
        name: value.dtype
        for name, value in load_file(tmp_path / "again" / weights).items()
        if value.dtype != torch.float32
    } == {}
    with pytest.raises(InputError, match="there already"):
        restore_encoder(tmp_path / "base", tmp_path / "delta.safetensors", tmp_path / "again")


def test_the_command_line_restores_an_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tiny(tmp_path / "base")
    with torch.no_grad():
        next(base.model.parameters()).mul_(1.5)
    base.save(tmp_path / "tuned", passage_space="5" * 64)
    delta = tmp_path / "delta.safetensors"
    write_delta(tmp_path / "base" / "model.safetensors", tmp_path / "tuned" / "model.safetensors", delta)
    options = ["--base", str(tmp_path / "base"), "--out", str(tmp_path / "again")]
    assert main(["apply-delta", str(delta), *options]) == 0
    assert "Restored" in capsys.readouterr().out
    assert sha256(tmp_path / "again" / "model.safetensors") == sha256(tmp_path / "tuned" / "model.safetensors")
    assert main(["apply-delta", str(delta), *options]) == 2
    assert "not empty" in capsys.readouterr().err
    assert main(["apply-delta", str(delta), "--base", "nothing-there", "--out", str(tmp_path / "more")]) == 2
    assert "There is no encoder 'nothing-there'" in capsys.readouterr().err
