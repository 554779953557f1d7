"""The trial's side of measuring: it starts the probe's process and reads what that has written."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from typing import IO, Any, Final

from sdd_core.energy import probe
from sdd_core.energy.figures import PATIENCE, Device, Sample, account
from sdd_core.energy.full_load import known

TRACKER: Final = probe.CARBONTRACKER


class Meter:
    """The power of a trial's devices, from a process that `start` starts and `close` ends.

    `threads` are the trial's on the CPU. `gpu` is the UUID of the GPU that it trains on, None on a CPU,
    and `gpu_share` its part of it in (0, 1]. `tracker` is what reads the power: carbontracker, or
    `module:function` of another one, a function of (cpu or gpu, the GPU's UUID) that gives a `probe.Handler`.
    No method raises an error or waits.
    """

    def __init__(
        self, *, threads: int, gpu: str | None = None, gpu_share: float = 1.0, tracker: str | None = None
    ) -> None:
        shares = {"gpu": gpu_share} if gpu is not None else {}
        shares["cpu"] = min(1.0, threads / (os.cpu_count() or threads))
        self.devices = {kind: Device(share=share, **known(kind)) for kind, share in shares.items()}
        # -P keeps the probe's own folder out of its search path: modules there have names that others may have, too.
        self._command = [sys.executable, "-P", probe.__file__, tracker or TRACKER, gpu or ""]
        self._child: subprocess.Popen[bytes] | None = None
        self._file: IO[bytes] | None = None
        self._read = 0
        self._heard = math.inf

    def start(self) -> None:
        """Start the probe's process at the first call; it gets ready while the trial goes on."""
        if self._file is not None:
            return
        self._heard = time.monotonic()
        try:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=self._file,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
                start_new_session=True,  # Ctrl-C is for the trial
            )
        except OSError as error:
            self._give_up(f"the meter did not start: {error}")

    def energy(self, began: float, ended: float) -> dict[str, Any]:
        """`account` of what the probe has written by now."""
        status = self._child.poll() if self._child is not None else None
        try:
            self._listen()
        except Exception as error:  # whatever it is, it is no reason to end a trial
            self._give_up(f"the meter cannot be read ({type(error).__name__}: {error})")
        if self._child is not None:
            if status is not None:
                self._give_up(f"the meter ended with status {status}")
            elif time.monotonic() - self._heard > PATIENCE:
                self._give_up(f"the meter said nothing for {PATIENCE:g} s")
        return account(self.devices, began, ended)

    def close(self) -> None:
        """End the probe's process."""
        self._give_up("the meter was closed")
        if self._file is not None:
            self._file.close()
            self._file = None

    def _give_up(self, reason: str) -> None:
        for device in self.devices.values():
            device.reason = device.reason or reason
        if self._child is not None:
            self._child.kill()
            # A process that even a kill does not end at once is left to the system.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout=0.1)
            if self._child.stdin is not None:
                self._child.stdin.close()
            self._child = None

    def _listen(self) -> None:
        """Take in the whole lines that the probe has written since the last time."""
        if self._file is None:
            return
        text = os.pread(self._file.fileno(), 1 << 24, self._read)  # the file's own position is the writer's
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            self._heard = time.monotonic()
            said = json.loads(line)
            device = self.devices[said.pop("kind")]
            if "sample" in said:
                device.samples.append(Sample(*said.pop("sample")))
            for name, value in said.items():
                setattr(device, name, value)
