"""Energy of a level in kWh, measured or estimated, and where the figure comes from.

carbontracker reads the power: RAPL for the CPU packages, NVML for a GPU. A fault of carbontracker can end
the process that it happens in, so it runs in a process of its own. That process starts in the background,
writes a line a second to a file and ends with its parent. When a level ends, the trial reads what is there;
it never waits. When that process raises an error, exits, hangs or reports 0 W, the level gets an estimate
instead, or no figure and the reason.

    kWh = mean power x share x PUE x seconds

* A trial's share of the CPU packages is its threads over the machine's CPUs; its share of a GPU is what it
  was given of it. So trials that run side by side do not count one device twice. A figure with a share below
  1 is an estimate.
* A level shorter than a second may have no sample of its own. It gets the mean power of the trial so far, as
  an estimate. Before the first sample, and where nothing is measured, the power at full load is taken:
  the TDP of a CPU that carbontracker's table knows by its exact name, or what `SDD_CPU_WATTS` (all CPUs of
  this machine) and `SDD_GPU_WATTS` (one GPU) say. Without either there is no figure. The table does not
  help in a virtual machine, because nobody knows how much of the CPU package it has.
* PUE is the overhead of a data centre, as carbontracker states it.

CO2 is energy times the grid's intensity, and is computed when it is shown (`grams`). Nothing here asks the
network. Importing the package imports neither torch nor carbontracker.

    figures     from samples of the power to a level's figure, and to grams of CO2
    meter       the trial's side: starts the process and reads what it has written
    probe       that process: asks carbontracker for the power every second
    full_load   known CPUs and the power that they draw at full load
"""

from sdd_core.energy.figures import PUE, WORLD_INTENSITY, Device, Sample, account, describe, grams, nothing
from sdd_core.energy.meter import Meter

__all__ = ["PUE", "WORLD_INTENSITY", "Device", "Meter", "Sample", "account", "describe", "grams", "nothing"]
