"""What levels cost: from records, from reports, in sums and in predictions."""

import pytest

from sdd_core.ledger import COSTS, NOTHING, Costs, Prediction, Spent, costs, total


def energy(kwh, source="measured", reason=None):
    return {"seconds": 2.0, "energy": {"kwh": kwh, "source": source, "reason": reason}}


def test_costs_are_sums_over_levels(make_record):
    levels = [
        make_record(level, pflop_teacher=0.5, pflop_real_teacher=1.0, measured=energy(0.25)) for level in range(3)
    ]
    assert costs(levels) == Costs(
        levels=3,
        pflop=0.75,
        pflop_teacher=1.5,
        pflop_real=1.5,
        pflop_real_teacher=3.0,
        pflop_real_evaluation=0.1875,
        seconds=6.0,
        energy_kwh=0.75,
        energy_source="measured",
        energy_levels=3,
        energy_reason=None,
    )


@pytest.mark.parametrize(
    ("parts", "kwh", "source", "known", "note"),
    [
        ([], 0, "measured", 0, None),
        ([(0.5, "measured", None), (0.25, "estimated", None)], 0.75, "estimated", 2, None),
        ([(0.0, "measured", None)], 0.0, "measured", 1, None),
        ([(0.5, "measured", None), (None, "none", "MIG")], None, "none", 1, "1 of 2 levels: MIG"),
        ([(0.5, "measured", "without the CPU"), (None, "none", "MIG")], None, "none", 1, "1 of 2 levels: MIG"),
        ([(0.5, "measured", None), (0.5, "measured", "without the CPU")], 1.0, "measured", 2, "without the CPU"),
    ],
)
def test_a_sum_of_energies_is_never_silently_too_small(make_record, parts, kwh, source, known, note):
    found = costs([make_record(i, measured=energy(*part)) for i, part in enumerate(parts)])
    assert (found.energy_kwh, found.energy_source, found.energy_levels, found.energy_note) == (kwh, source, known, note)
    halves = [costs([make_record(i, measured=energy(*part))]) for i, part in enumerate(parts)]
    assert total(halves) == found


def test_a_level_that_recorded_nothing_has_no_figure(make_record):
    found = costs([make_record(0), make_record(1, measured={})])
    assert (found.seconds, found.energy_kwh, found.energy_levels) == (None, None, 1)
    assert found.energy_note == "1 of 2 levels: nothing was recorded"


def test_an_equal_part_of_costs(make_record):
    each = costs([make_record(0, measured=energy(0.5)), make_record(1, measured={})]) / 4
    assert (each.levels, each.pflop, each.seconds, each.energy_kwh) == (0.5, 0.125, None, None)


# --- what a run has cost so far -------------------------------------------------------------


def of_level(**changes):
    """What a level costs, as a worker reports it."""
    known = dict.fromkeys(COSTS, 0.0) | {"levels": 1, "pflop": 1.0, "seconds": 2.0, "energy_kwh": 3.0}
    return known | {"energy_source": "measured", "energy_levels": 1, "energy_reason": None} | changes


UNKNOWN = {"energy_kwh": None, "energy_source": "none", "energy_levels": 0, "energy_reason": "MIG"}


@pytest.mark.parametrize(
    ("levels", "otherwise", "kwh"),
    [
        ([], None, 0.0),
        ([{}, {"seconds": 4.0}], None, 6.0),
        ([{}, UNKNOWN | {"seconds": 4.0}], None, 3.0 + 4.0 * 1.5),  # the others' mean power
        ([{}, UNKNOWN], 100.0, 6.0),
        ([UNKNOWN], None, None),
        ([UNKNOWN], 0.25, 0.5),
        ([UNKNOWN | {"seconds": None}], 0.25, None),
        ([{"seconds": 0.0}, UNKNOWN], None, None),
    ],
)
def test_levels_without_an_energy_are_taken_to_have_the_others_power(levels, otherwise, kwh):
    spent = Spent()
    for number, changes in enumerate(levels):
        spent.add({"key": str(number), "costs": of_level(**changes)})
    assert spent.energy(otherwise) == kwh
    assert (spent.levels, spent.pflop, spent.costs.levels) == (len(levels), len(levels), len(levels))


# --- what is predicted ----------------------------------------------------------------------


def test_the_ends_of_a_prediction():
    low, high = Costs(**of_level()), Costs(**of_level(levels=5, seconds=8.0, energy_kwh=4.0))
    predicted = Prediction(low=low, high=high)
    assert predicted.ends("levels") == {"low": 1, "high": 5}
    assert predicted.ends("energy_kwh", 100.0) == {"low": 300.0, "high": 400.0}
    assert predicted.power == 0.5
    unknown = Prediction(low=low, high=Costs(**of_level(**UNKNOWN)))
    assert (unknown.ends("energy_kwh"), unknown.power) == (None, None)
    assert Prediction(low=NOTHING, high=NOTHING).power is None
