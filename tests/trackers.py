"""What may stand in carbontracker's place, named as module:function to the meter's process."""

import contextlib
import os
import socket
import threading
import time
from pathlib import Path


class Steady:
    """A handler of one device with the same power at each reading."""

    def __init__(self, watts, name="Fake 9000"):
        self.watts, self.name = watts, name

    def devices(self):
        return [self.name]

    def power_usage(self):
        if callable(self.watts):
            return [self.watts()]
        return [self.watts]


def steady(kind, gpu):
    """A GPU of 300 W and CPU packages of 100 W together."""
    return Steady(300.0) if kind == "gpu" else Steady(100.0)


def chatty(kind, gpu):
    print("carbontracker talks", "\n" * 3, flush=True)
    return steady(kind, gpu)


def gpu_only(kind, gpu):
    if kind == "cpu":
        raise PermissionError("energy_uj cannot be read")
    return steady(kind, gpu)


def cpu_only(kind, gpu):
    if kind == "gpu":
        raise PermissionError("NVML cannot be read")
    return steady(kind, gpu)


def raises(kind, gpu):
    raise RuntimeError("no component")


def exits(kind, gpu):
    os._exit(70)


def leaves(kind, gpu):
    raise SystemExit(70)


def hangs(kind, gpu):
    threading.Event().wait()


def zero(kind, gpu):
    return Steady(0.0)


def not_a_number(kind, gpu):
    return Steady(float("nan"))


def negative(kind, gpu):
    return Steady(-5.0)


def raises_later(kind, gpu):
    def fail():
        raise ValueError("counter gone")

    return Steady(fail)


def exits_later(kind, gpu):
    return Steady(lambda: os._exit(70))


def hangs_later(kind, gpu):
    return Steady(lambda: threading.Event().wait() and 0.0)


def steady_then_exits(kind, gpu):
    """One sample, then the process is gone."""
    readings = iter([100.0])
    return Steady(lambda: next(readings, None) or os._exit(70))


def scrambles(kind, gpu):
    """Writes into every file that the process has open."""
    for descriptor in range(3, 20):
        with contextlib.suppress(OSError):
            os.write(descriptor, b"what is this\n")
    return steady(kind, gpu)


def calls_home(kind, gpu):
    """What no meter may do."""
    socket.create_connection(("127.0.0.1", 9), timeout=1)


def rapl(kind, gpu):
    """carbontracker's own reader on a counter that grows by 50 J a second, in the folder that RAPL_DIR names."""
    from carbontracker.components.cpu import intel

    from sdd_core.energy import probe

    folder = Path(os.environ["RAPL_DIR"])
    counter = folder / "intel-rapl:0" / "energy_uj"
    counter.parent.mkdir()
    (counter.parent / "name").write_text("package-0\n")
    counter.write_text("0")
    began = time.monotonic()

    def count():
        while True:
            aside = counter.with_suffix(".new")
            aside.write_text(str(round(50e6 * (time.monotonic() - began))))
            aside.replace(counter)
            time.sleep(0.01)

    threading.Thread(target=count, daemon=True).start()
    intel.RAPL_DIR = f"{folder}/"
    return probe.carbontracker(kind, gpu)
