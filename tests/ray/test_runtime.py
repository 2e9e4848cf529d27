import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed
from ray.data import DataContext

from retort.errors import InputError
from retort.resources import Resources
from retort.runtime.loop import run_training
from retort.runtime.stages import map_parts


class Lengths:
    """Dies at its first try of the part "dies-NN", refuses "poison"."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def __call__(self, part):
        tries = self.folder / part
        tries.write_text("x" * (1 + (len(tries.read_text()) if tries.exists() else 0)))
        if part == "poison":
            raise InputError("row 7 of part poison is empty.")
        if part == "slow":
            time.sleep(5)
        if part.startswith("dies") and len(tries.read_text()) == 1:
            os._exit(1)
        return {"length": len(part), "tries": len(tries.read_text())}


def test_a_killed_actor_costs_nothing_but_its_part(tmp_path):
    stats = map_parts(Lengths, {"folder": str(tmp_path)}, ["a", "dies-00", "ccc"], Resources(), describe="measured")
    assert [item["length"] for item in stats] == [1, 7, 3]
    assert stats[1]["tries"] == 2


def test_a_part_may_take_longer_than_ray_waits_for_progress(tmp_path, monkeypatch):
    monkeypatch.setattr(DataContext.get_current(), "execution_no_progress_timeout_s", 1)
    stats = map_parts(Lengths, {"folder": str(tmp_path)}, ["slow"], Resources(), describe="measured")
    assert stats == [{"length": 4, "tries": 1}]


def test_a_workers_own_error_reaches_the_caller_as_it_is(tmp_path):
    with pytest.raises(InputError, match="row 7 of part poison"):
        map_parts(Lengths, {"folder": str(tmp_path)}, ["poison"], Resources(), describe="measured")


def test_a_plan_that_cannot_start_is_refused(tmp_path):
    with pytest.raises(InputError, match="do not fit this Ray cluster"):
        map_parts(Lengths, {"folder": str(tmp_path)}, ["a"] * 999, Resources(workers=999), describe="measured")


def count_to_five(settings, link):
    with link.restored() as folder:
        start = int((folder / "step").read_text()) if folder else 0
    for step in range(start, 5):
        link.report({"step": step})
        if step % 2:
            link.save(lambda into, done=step + 1: (into / "step").write_text(str(done)), {"step": step})
        if step == 3 and start == 0 and settings["die"]:
            time.sleep(
                2
            )  # Ray registers a checkpoint a moment after it is written; on a busy machine none would be by now
            os._exit(1)
    if settings["fail"]:
        raise InputError("loss is NaN at step 5.")


def test_training_goes_on_after_a_lost_worker(tmp_path):
    outcome = run_training(
        count_to_five,
        {"die": True, "fail": False},
        Resources(),
        scratch=str(tmp_path / "s"),
        run_name="r",
        into=tmp_path / "last",
    )
    steps = [report["step"] for report in outcome.reports]
    # The newest checkpoint may be lost with the worker; never all of them.
    assert sorted(set(steps)) == [0, 1, 2, 3, 4] and steps[-1] == 4 and steps.count(0) == 1
    assert (tmp_path / "last" / "step").read_text() == "4"


def full_disk(report):
    raise OSError("No space left on device")


def test_a_loops_own_error_ends_the_run_with_its_message_whatever_befell_the_reports(tmp_path):
    with pytest.raises(InputError, match="loss is NaN at step 5"):
        run_training(
            count_to_five,
            {"die": False, "fail": True},
            Resources(),
            scratch=str(tmp_path / "s"),
            run_name="r",
            into=tmp_path / "l",
            on_report=full_disk,
        )


def test_what_cannot_be_shown_is_told_after_the_run_and_costs_no_step(tmp_path):
    given = {"scratch": str(tmp_path / "s"), "run_name": "r", "into": tmp_path / "l"}
    with pytest.raises(OSError, match="No space left"):
        run_training(count_to_five, {"die": False, "fail": False}, Resources(), **given, on_report=full_disk)
    resumed = run_training(count_to_five, {"die": False, "fail": False}, Resources(), **given)
    assert [report["step"] for report in resumed.reports] == [4], "the first run went on to its last checkpoint"


def fail_on_one_rank(settings, link):
    if link.rank == 1:
        raise InputError("the map of query 'q7' is damaged.")
    torch.distributed.barrier()  # rank 0 waits for the other, as it does within a step; gloo would wait for half an hour


@pytest.mark.slow
@pytest.mark.parametrize("max_failures", [0, 3])
def test_an_error_on_one_rank_ends_the_run_on_all_of_them(tmp_path, max_failures):
    with pytest.raises(InputError, match="map of query 'q7' is damaged"):
        run_training(
            fail_on_one_rank,
            {},
            Resources(workers=2),
            scratch=str(tmp_path / "s"),
            run_name="r",
            into=tmp_path / "l",
            max_failures=max_failures,
        )


def test_the_standard_librarys_platform_is_the_one_in_a_ray_worker():
    import ray

    root = str(Path(__file__).resolve().parents[2])

    @ray.remote(num_cpus=0.1)
    def where(folder):
        import importlib
        import sys

        os.chdir(folder)
        sys.path.insert(0, "")
        sys.modules.pop("platform", None)
        return importlib.import_module("platform").__file__

    assert root not in ray.get(where.remote(root))


OWN_RAY = """
import os
import ray
from retort.runtime.connecting import connected

with connected(worker_niceness={niceness}):
    print(ray.get(ray.remote(num_cpus=0.1)(lambda: os.nice(0)).remote()))
"""


def test_workers_of_an_instance_of_ones_own_have_the_niceness_asked_for():
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    for asked, expected in ((0, os.nice(0)), (None, os.nice(0) + 15)):
        script = OWN_RAY.format(niceness=asked)
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        assert int(done.stdout.split()[-1]) == min(19, expected)


GROWING = """
from retort.runtime.connecting import connected
from retort.runtime.stages import check_fits

with connected():
    check_fits(999, 1, 1)
"""


def test_a_plan_that_a_growing_cluster_may_start_later_is_waited_for_and_that_is_said():
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["RAY_NODE_TYPE_NAME"] = "head"  # as `ray up` starts a node of an autoscaling cluster
    done = subprocess.run([sys.executable, "-c", GROWING], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "999 workers of 1 CPUs and 1 GPUs" in done.stderr and "wait for new nodes" in done.stderr
