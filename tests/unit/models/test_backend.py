"""Device and precision are decided by asking the machine."""

import json

import pytest
import torch

from retort.errors import ConfigError
from retort.models import backend


@pytest.fixture(autouse=True)
def forget_measurement():
    backend._cpu_bf16_speedup.cache_clear()
    yield
    backend._cpu_bf16_speedup.cache_clear()


@pytest.mark.parametrize(("speedup", "expected"), [(3.0, "bf16"), (1.0, "fp32"), (0.006, "fp32")])
def test_auto_takes_bf16_only_where_it_is_faster(monkeypatch, speedup, expected):
    monkeypatch.setattr(backend, "measure_bf16_speedup", lambda: speedup)
    assert backend.pick_precision("cpu", "auto") == expected


def test_measurement_is_kept_for_the_next_process(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(backend, "measure_bf16_speedup", lambda: calls.append(1) or 3.0)
    backend.pick_precision("cpu")
    backend._cpu_bf16_speedup.cache_clear()  # what a new process starts with
    assert backend.pick_precision("cpu") == "bf16"
    assert calls == [1]
    (record,) = (tmp_path / "cache" / "backend").iterdir()
    assert json.loads(record.read_text()) == {"bf16_speedup": 3.0}


def test_damaged_record_is_measured_again(monkeypatch):
    monkeypatch.setattr(backend, "measure_bf16_speedup", lambda: 3.0)
    path = backend._record_path("bf16")
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert backend.pick_precision("cpu") == "bf16"


def test_measurement_is_a_positive_ratio_and_short():
    assert 0 < backend.measure_bf16_speedup(budget_s=0.05) < 100


def test_a_precision_that_is_named_is_not_measured(monkeypatch):
    monkeypatch.setattr(backend, "measure_bf16_speedup", lambda: pytest.fail("measured"))
    assert backend.pick_precision("cpu", "bf16") == "bf16"
    assert backend.pick_precision("cpu", "fp32") == "fp32"


def test_autocast_runs_products_in_the_precision_asked_for():
    a = torch.ones(2, 2)
    with backend.autocast("bf16", "cpu"):
        assert (a @ a).dtype == torch.bfloat16
        with backend.autocast("fp32", "cpu"):
            assert (a @ a).dtype == torch.float32


def test_unknown_precision_and_device_say_what_is_expected():
    with pytest.raises(ConfigError, match="'fp8'.*'auto', 'fp32', 'bf16'"):
        backend.pick_precision("cpu", "fp8")
    with pytest.raises(ConfigError, match="'gpu'.*expected 'cpu'"):
        backend.pick_device("gpu")
    with pytest.raises(ConfigError, match="cuda:99"):
        backend.pick_device("cuda:99")
