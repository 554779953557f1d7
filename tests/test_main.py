"""`python -m sdd_core`: one trajectory in this process, and what it says that it cost."""

import pytest

from sdd_core import energy
from sdd_core.commands import trajectory
from sdd_core.energy import Meter
from sdd_core.store import Store

TINY = ["--epochs", "1", "--model-options", "hidden1=16", "hidden2=8", "--target-sparsity", "0.3"]


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the command on a fresh store; gives its output and the curve."""

    def run(*arguments):
        assert trajectory.main([*TINY, "--store", str(tmp_path / "store"), *arguments]) == 0
        store = Store(str(tmp_path / "store"))
        (spec,) = store.trials()
        return capsys.readouterr().out, store.curve(spec)

    return run


def test_the_command_says_costs_of_both_conventions_and_energy(run, monkeypatch):
    monkeypatch.setattr(
        Meter, "energy", lambda self, began, ended: energy.nothing("") | {"kwh": 0.5, "source": "estimated"}
    )
    said, curve = run("--carbon-intensity", "20")
    assert [record.energy_kwh for record in curve] == [0.5] * 3
    paper, real = sum(record.pflop for record in curve), sum(record.pflop_real for record in curve)
    assert said.splitlines()[-1] == (
        f"{paper:.3g} PFLOP by the paper's convention, {real:.3g} in real operations; "
        "1.5 kWh (estimated), 30 gCO2e at 20 g/kWh"
    )


def test_energy_can_be_switched_off(run):
    said, curve = run("--no-energy")
    assert {record.energy_reason for record in curve} == {"measuring is switched off"}
    assert said.splitlines()[-1].endswith("; energy unknown (3 of 3 levels: measuring is switched off)")


@pytest.mark.parametrize(("intensity", "shown"), [("-1", -1.0), ("nan", "nan"), ("inf", "inf"), ("green", "'green'")])
def test_a_bad_intensity_is_refused(capsys, tmp_path, intensity, shown):
    with pytest.raises(SystemExit) as ended:
        trajectory.main(["--store", str(tmp_path / "store"), "--carbon-intensity", intensity, "--threads", "0"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "2 faults" in said
    assert f"carbon_intensity {shown}: must be" in said
