from __future__ import annotations

from pytest_avo.core.evaluation import KERNEL, Evaluation, Reading, Timing


def test_readings_in_short() -> None:
    readings = (
        Reading(sm_mhz=1980, memory_mhz=3201, temperature_c=50, power_w=300.0),
        Reading(sm_mhz=1500, memory_mhz=3201, temperature_c=71, power_w=690.5, throttled=("power cap",)),
    )
    found = Timing({KERNEL: ((1.0, 1.0),)}, calls=1, stopped="", readings=readings).conditions
    assert found is not None
    assert (found.sm_mhz, found.temperature_c, found.power_w) == ((1500, 1980), 71, 690.5)
    assert found.throttled == {"power cap": 0.5}


def test_a_device_that_tells_nothing_has_no_conditions() -> None:
    assert Timing({KERNEL: ((1.0,),)}, calls=1, stopped="").conditions is None


def test_an_evaluation_takes_what_its_phases_take() -> None:
    assert Evaluation("shape", "ok", build_s=1.0, check_s=2.0, time_s=4.0).seconds == 7.0
