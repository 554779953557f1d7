"""Energy of a level: what samples give, and a meter whose tracker fails in every way."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdd_core import trajectory
from sdd_core.energy import PUE, WORLD_INTENSITY, Device, Meter, Sample, account, full_load, grams, nothing, probe
from sdd_core.energy import meter as meters
from sdd_core.store import Store, determined

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ("kwh", "source", "method", "device", "power_w", "pue", "share", "reason")


@pytest.fixture(autouse=True)
def _real_meters(monkeypatch, start_meter):
    monkeypatch.setattr(Meter, "start", start_meter)
    for name in ("SDD_CPU_WATTS", "SDD_GPU_WATTS"):  # whatever this machine's are
        monkeypatch.setenv(name, "not known")


@pytest.fixture
def meter():
    """Makes meters with a tracker of tests/trackers.py, and ends them."""
    made = []

    def make(tracker, threads=None, **options):
        made.append(Meter(threads=threads or os.cpu_count(), tracker=f"tests.trackers:{tracker}", **options))
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        one.close()


def asked(meter, words="", seconds=20):
    """The meter's answer since its start, once it holds these words or has a figure."""
    began = time.monotonic() - 1
    while time.monotonic() - began < seconds:
        answer = meter.energy(began, time.monotonic())
        if (words and words in str(answer)) or (not words and answer["source"] != "none"):
            return answer
        time.sleep(0.02)
    raise AssertionError(answer)


# --- from samples to a figure ---------------------------------------------------------------


def device(samples=(), **facts):
    return Device(**({"share": 1.0, "name": "D"} | facts), samples=[Sample(*sample) for sample in samples])


INSIDE = [(10.5, 90.0), (11.5, 110.0)]
BEFORE = [(1.0, 40.0), (2.0, 60.0)]


@pytest.mark.parametrize(
    ("cpu", "watts", "source", "words"),
    [
        (device(INSIDE), 100.0, "measured", "CPU: carbontracker (RAPL)"),
        (device(BEFORE + INSIDE), 100.0, "measured", "RAPL"),
        (device(INSIDE, share=0.25), 25.0, "estimated", "a share of the device"),
        (device([(10.5, 90.0, 2), (11.5, 110.0)]), 100.0, "estimated", "not alone on the device"),
        (device([(9.0, 90.0, 2), *INSIDE]), 100.0, "measured", "RAPL"),
        (device(BEFORE), 50.0, "estimated", "the trial's mean power: no sample within the level"),
        (device(BEFORE, watts=280.0, watts_from="TDP"), 50.0, "estimated", "the trial's mean power"),
        (device([(10.1, 0.0), *INSIDE]), 100.0, "measured", "RAPL"),
        (device([], watts=280.0, watts_from="TDP"), 280.0, "estimated", "TDP at full load (no sample yet)"),
        (device([], watts=280.0, watts_from="TDP", share=0.5), 140.0, "estimated", "TDP at full load"),
        (
            device([(11.0, 0.0)], watts=9.0, watts_from="TDP"),
            9.0,
            "estimated",
            "TDP at full load (carbontracker (RAPL) ",
        ),
        (device([], watts=9.0, watts_from="TDP", reason="gone"), 9.0, "estimated", "TDP at full load (gone)"),
    ],
)
def test_the_power_of_a_level(cpu, watts, source, words):
    """A level from 10 s to 12 s."""
    found = account({"cpu": cpu}, 10, 12)
    assert tuple(found) == FIGURES
    assert found["kwh"] == pytest.approx(watts * 2 * PUE / 3.6e6, rel=1e-12)
    assert (found["power_w"], found["pue"], found["share"]) == (watts, PUE, cpu.share)
    assert (found["source"], found["device"], found["reason"]) == (source, "D", None)
    assert words in found["method"]


@pytest.mark.parametrize(
    ("cpu", "words"),
    [
        (device(), "CPU: no sample yet"),
        (device(reason="gone"), "CPU: gone"),
        (device([(11.0, 0.0)]), "reports 0 W"),
        (device([(11.0, math.nan), (11.5, -3.0), (11.6, math.inf)]), "reports 0 W"),
    ],
)
def test_no_power_is_no_figure(cpu, words):
    found = account({"cpu": cpu}, 10, 12)
    assert found == nothing(found["reason"], "D")
    assert (found["kwh"], found["source"]) == (None, "none")
    assert words in found["reason"]


def test_a_meter_that_fell_silent_in_the_level_is_no_measurement_of_it():
    found = account({"cpu": device(INSIDE)}, 10, 100)
    assert (found["power_w"], found["source"]) == (100.0, "estimated")
    assert "no sample in the last 88 s" in found["method"]


@pytest.mark.parametrize(
    ("gpu", "cpu", "watts", "source", "name", "reason"),
    [
        (device([(11, 300.0)], name="G"), device([(11, 100.0)]), 400.0, "measured", "G + D", None),
        (device([(11, 300.0)], name="G"), device([(11, 100.0)], share=0.5), 350.0, "estimated", "G + D", None),
        (device([(11, 300.0)], name="G", share=0.5), device([(11, 100.0)]), 250.0, "estimated", "G + D", None),
        (device([(11, 300.0)], name="G"), device(reason="gone"), 300.0, "measured", "G", "without the CPU: gone"),
        (device(name="G", reason="MIG"), device([(11, 100.0)]), None, "none", "G", "GPU: MIG"),
    ],
)
def test_a_gpu_and_its_cpu(gpu, cpu, watts, source, name, reason):
    """The CPU alone would be a figure far too small; the GPU alone says that it is."""
    found = account({"gpu": gpu, "cpu": cpu}, 10, 12)
    assert (found["power_w"], found["source"], found["device"]) == (watts, source, name)
    assert found["reason"] == reason or found["reason"].startswith(reason)


@given(st.lists(st.integers(1, 64), min_size=1, max_size=64), st.floats(1, 1e4), st.floats(0.001, 1e5))
def test_trials_side_by_side_share_one_device_and_no_more(threads, watts, seconds):
    whole = account({"cpu": device([(0.0, watts)])}, 0, seconds)["kwh"]
    total = sum(threads)
    parts = [account({"cpu": device([(0.0, watts)], share=n / total)}, 0, seconds)["kwh"] for n in threads]
    assert sum(parts) == pytest.approx(whole, rel=1e-9)


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=30), st.floats(1, 1000))
def test_a_trials_energy_is_divided_among_short_levels_by_time(lengths, watts):
    cpu, at, levels = device([(-1.0, watts)]), 0.0, []
    for length in lengths:
        levels.append(account({"cpu": cpu}, at, at + length))
        at += length
    assert sum(level["kwh"] for level in levels) == pytest.approx(watts * at * PUE / 3.6e6, rel=1e-9)
    assert {level["source"] for level in levels} == {"estimated"}


@pytest.mark.parametrize(
    ("kwh", "intensity", "expected"),
    [(2.0, {}, 890.0), (2.0, {"intensity": 50}, 100.0), (2.0, {"intensity": 0}, 0.0), (0.0, {}, 0.0), (None, {}, None)],
)
def test_grams(kwh, intensity, expected):
    assert grams(kwh, **intensity) == expected


def test_the_constants_are_carbontrackers():
    from carbontracker import constants

    assert (PUE, WORLD_INTENSITY) == (constants.PUE_2023, constants.WORLD_AVG_CARBON_INTENSITY)
    assert constants.WORLD_AVG_CARBON_INTENSITY_YEAR == 2024


# --- known devices --------------------------------------------------------------------------


def cpuinfo(name, packages=1, flags="fpu vme"):
    return "\n".join(
        f"processor\t: {i}\nmodel name\t: {name}\nphysical id\t: {i % packages}\nflags\t\t: {flags}\n"
        for i in range(2 * packages)
    )


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz", "Intel Core i7-8700"),
        ("Intel(R) Xeon(R) Gold 6248R CPU @ 3.00GHz", "Intel Xeon Gold 6248R"),
        ("12th Gen Intel(R) Core(TM) i9-12900K", "Intel Core i9-12900K"),
        ("AMD EPYC 7742 64-Core Processor", "AMD EPYC 7742"),
        ("AMD Ryzen 9 5950X 16-Core Processor", "AMD Ryzen 9 5950X"),
        ("AMD EPYC", "AMD EPYC"),
    ],
)
def test_cpu_names(raw, name):
    assert full_load.cpu_name(cpuinfo(raw)) == name


@pytest.mark.parametrize(
    ("text", "watts"),
    [
        (cpuinfo("AMD EPYC 7742 64-Core Processor"), 225),
        (cpuinfo("AMD EPYC 7742 64-Core Processor", packages=2), 450),
        (cpuinfo("Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz"), 65),
        (cpuinfo("AMD EPYC 7742 64-Core Processor", flags="fpu hypervisor"), None),  # a part of a package
        (cpuinfo("AMD EPYC"), None),  # carbontracker would take the first name that begins so
        (cpuinfo("Intel Core i7-87"), None),
        ("", None),
    ],
)
def test_only_a_name_that_is_in_the_table_has_a_tdp(text, watts):
    assert full_load.cpu_watts(text, full_load.cpu_table()) == watts


# --- the meter's process --------------------------------------------------------------------


@pytest.mark.parametrize("tracker", ["steady", "chatty"])
def test_a_meter_measures(meter, tracker):
    found = asked(meter(tracker))
    assert (found["power_w"], found["share"], found["reason"]) == (100.0, 1.0, None)
    assert "carbontracker (RAPL)" in found["method"]


def test_a_meter_measures_a_gpu_and_the_cpu(meter):
    found = asked(meter("steady", threads=1, gpu="GPU-1", gpu_share=0.5), "CPU: carbontracker")
    assert found["power_w"] == pytest.approx(300 * 0.5 + 100 / os.cpu_count())
    assert (found["source"], found["share"]) == ("estimated", 0.5)
    assert found["device"].startswith("Fake 9000 + ")


def test_a_part_that_cannot_be_measured_is_named(meter):
    found = asked(meter("gpu_only", gpu="GPU-1"), "PermissionError")
    assert "without the CPU: PermissionError: energy_uj cannot be read" in found["reason"]
    found = asked(meter("cpu_only", gpu="GPU-1"), "PermissionError")
    assert (found["kwh"], found["reason"].split(",")[0]) == (None, "GPU: PermissionError: NVML cannot be read")


FAULTS = {
    "raises": "RuntimeError: no component",
    "exits": "the meter ended with status 70",
    "leaves": "the meter ended with status 70",
    "hangs": "the meter said nothing for",
    "zero": "reports 0 W",
    "not_a_number": "reports 0 W",
    "negative": "reports 0 W",
    "raises_later": "ValueError: counter gone",
    "exits_later": "the meter ended with status 70",
    "hangs_later": "the meter said nothing for",
    "scrambles": "the meter cannot be read (JSONDecodeError",
    "is_not_there": "the meter ended with status 1",
}


@pytest.mark.parametrize(("tracker", "reason"), FAULTS.items())
@pytest.mark.parametrize("stated", [None, "60"])
def test_a_tracker_that_fails_is_an_answer(meter, monkeypatch, tracker, reason, stated):
    monkeypatch.setattr(meters, "PATIENCE", 1.5 if reason.startswith("the meter said") else 30)
    if stated is not None:
        monkeypatch.setenv("SDD_CPU_WATTS", stated)
    found = asked(meter(tracker), reason)
    if stated is None:
        assert (found["kwh"], found["source"]) == (None, "none")
        assert found["device"]
    else:
        assert (found["power_w"], found["source"], found["reason"]) == (60.0, "estimated", None)
        assert found["method"].startswith("CPU: SDD_CPU_WATTS at full load (")


def test_a_meter_that_ends_after_a_sample_leaves_the_trials_mean(meter):
    one = meter("steady_then_exits")
    assert asked(one)["power_w"] == 100.0
    while one._child is not None:
        one.energy(0, 1)
    later = time.monotonic() + 50
    found = one.energy(later, later + 10)
    assert (found["power_w"], found["source"]) == (100.0, "estimated")
    assert "the trial's mean power" in found["method"]


@pytest.mark.parametrize("stated", ["much", "0", "-4", "nan", "inf", ""])
def test_a_stated_power_that_is_none_is_named(meter, monkeypatch, stated):
    monkeypatch.setenv("SDD_CPU_WATTS", stated)
    assert "must be a number above 0" in asked(meter("raises"), "SDD_CPU_WATTS")["reason"]


def test_a_meter_that_cannot_start_is_an_answer(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/does/not/exist")
    one = Meter(threads=1)
    one.start()
    assert "the meter did not start" in one.energy(0, 1)["reason"]
    one.close()


def test_a_stated_power_counts_from_the_first_level_on(meter, monkeypatch):
    """Before the meter's process has said anything."""
    monkeypatch.setenv("SDD_CPU_WATTS", "60")
    found = meter("hangs").energy(0, 1)
    assert (found["power_w"], found["source"]) == (60.0, "estimated")
    assert found["method"] == "CPU: SDD_CPU_WATTS at full load (no sample yet)"


def test_asking_waits_for_nothing(meter):
    found = meter("hangs").energy(0, 1)
    assert "no sample yet" in found["reason"]


def test_neither_the_package_nor_the_probe_needs_torch_or_carbontracker():
    """The probe is run by its path, from anywhere, where this project is not to be found."""
    seen = "import sys; assert not {'torch', 'carbontracker', 'numpy'} & set(sys.modules), sys.modules"
    for code in (f"import sdd_core.energy; {seen}", f"import runpy; runpy.run_path({probe.__file__!r}); {seen}"):
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
    command = [sys.executable, "-I", "-S", probe.__file__, "no_such_module:tracker", ""]
    with subprocess.Popen(command, cwd="/", stdin=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert b"No module named 'no_such_module'" in child.stderr.read()


def test_a_closed_meter_has_no_process(meter):
    one = meter("hangs")
    child = psutil.Process(one._child.pid)
    one.close()
    assert not child.is_running()
    one.close()


def test_the_meter_ends_with_its_parent_however_that_ends():
    code = (
        "import os, signal\nfrom sdd_core.energy import Meter\n"
        "one = Meter(threads=1, tracker='tests.trackers:hangs')\none.start()\n"
        "print(one._child.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    parent = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=60)
    assert parent.returncode == -signal.SIGKILL
    until = time.monotonic() + 20
    while psutil.pid_exists(int(parent.stdout)) and time.monotonic() < until:
        if psutil.Process(int(parent.stdout)).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.02)
    assert not psutil.pid_exists(int(parent.stdout))


# --- carbontracker's own readers ------------------------------------------------------------


def test_carbontracker_reads_the_packages_counters(meter, monkeypatch, tmp_path):
    monkeypatch.setenv("RAPL_DIR", str(tmp_path))
    found = asked(meter("rapl"))
    assert found["power_w"] == pytest.approx(50, rel=0.2)
    assert "carbontracker (RAPL)" in found["method"]


NVML = """
NVML_DEVICE_MIG_ENABLE = 1
class NVMLError(Exception): pass
class NVMLError_NotSupported(NVMLError): pass
GPUS = ["GPU-a", "GPU-b", "GPU-divided"]
def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return len(GPUS)
def nvmlDeviceGetIndex(handle): return handle
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetName(handle): return f"NVIDIA Fake {handle}"
def nvmlDeviceGetPowerUsage(handle): return [100_000, 300_000, 500_000][handle]
def nvmlDeviceGetComputeRunningProcesses(handle): return [1, 2, 3][:1 + 2 * (handle == 0)]
def nvmlDeviceGetHandleByUUID(uuid):
    if uuid not in GPUS:
        raise NVMLError("Not Found")
    return GPUS.index(uuid)
def nvmlDeviceGetMigMode(handle):
    if handle == 0:
        raise NVMLError_NotSupported("Not Supported")
    return [int(handle == 2), 0]
"""


@pytest.mark.parametrize(
    ("gpu", "watts", "words"),
    [
        ("GPU-a", 100.0, "not alone on the device"),
        ("GPU-b", 300.0, "GPU: carbontracker (NVML)"),  # not the sum of all, though its name is a UUID
        ("GPU-c", None, "NVMLError: Not Found"),
        ("GPU-divided", None, "divided by MIG"),
        ("MIG-1", None, "a MIG part"),
    ],
)
def test_carbontracker_reads_the_trials_gpu_alone(monkeypatch, tmp_path, gpu, watts, words):
    (tmp_path / "pynvml.py").write_text(NVML)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpu)
    one = Meter(threads=1, gpu=gpu)
    one.start()
    try:
        found = asked(one, words)
    finally:
        one.close()
    if watts is None:
        assert (found["kwh"], found["source"]) == (None, "none")
    else:
        assert one.devices["gpu"].samples[0].watts == watts
        assert one.devices["gpu"].name == f"NVIDIA Fake {['GPU-a', 'GPU-b'].index(gpu)}"


@pytest.mark.parametrize(("tracker", "calls"), [(None, False), ("tests.trackers:calls_home", True)])
def test_no_network_is_asked(monkeypatch, tmp_path, tracker, calls):
    """The second tracker shows that a request would be seen."""
    seen = tmp_path / "seen"
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nsys.addaudithook(lambda event, _: open("
        f"{str(seen)!r}, 'w').close() if event.startswith(('socket.connect', 'socket.getaddrinfo')) else None)"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    one = Meter(threads=1, gpu="GPU-1", tracker=tracker)
    one.start()
    until = time.monotonic() + 20
    while not all(device.reason or device.samples for device in one.devices.values()):
        assert time.monotonic() < until
        one.energy(0, 1)
        time.sleep(0.02)
    one.close()
    assert seen.exists() == calls


# --- in a trial -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    return trajectory.run(tiny(), Store(str(tmp_path_factory.mktemp("undisturbed"))), energy=False)


def test_switched_off_is_said(undisturbed):
    assert {record.measured["energy"]["reason"] for record in undisturbed} == {"measuring is switched off"}


@pytest.mark.parametrize("tracker", ["steady", *FAULTS])
def test_no_tracker_changes_or_ends_a_trial(tiny, store, undisturbed, monkeypatch, tracker):
    monkeypatch.setattr(meters, "TRACKER", f"tests.trackers:{tracker}")
    others = set(psutil.Process().children())  # what other tests of this process have left
    curve = trajectory.run(tiny(), store)
    assert [determined(record) for record in curve] == [determined(record) for record in undisturbed]
    for record in curve:
        used = record.measured["energy"]
        assert tuple(used) == FIGURES
        assert (used["kwh"] is None) == (used["source"] == "none") == (used["power_w"] is None)
        assert used["kwh"] is not None or used["reason"]
    assert set(psutil.Process().children()) <= others


def test_levels_that_are_read_start_no_meter(tiny, store, monkeypatch):
    curve = trajectory.run(tiny(), store, energy=False)
    monkeypatch.setattr(Meter, "start", lambda self: pytest.fail("a meter was started"))
    assert trajectory.run(tiny(), store) == curve
