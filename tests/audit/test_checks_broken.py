"""Mechanisms that are broken on purpose: who catches each, and that a sound one is left in peace."""

import pytest

from fedtune.audit.checks.faults import FAULTS, Sight, look
from fedtune.audit.checks.specimen import specimen_plan

EPSILON = 2.14
"""What the specimen's plan claims, rounded up: dp-accounting's PLD says 2.131."""


@pytest.fixture(scope="module")
def sights() -> dict[str, Sight]:
    """One audit of each."""
    return {fault: look(fault, specimen_plan(), canaries=600, epsilon=EPSILON) for fault in FAULTS}


def test_the_sound_mechanism_is_left_in_peace(sights):
    """Far beyond what chance could do: a test at its own level would fail now and then."""
    sound = sights["none"]
    assert all(finding.p_value is None or finding.p_value > 1e-7 for finding in sound.tests)
    assert all(finding.holds for finding in (*sound.tests, *sound.plan) if finding.p_value is None)
    assert sound.bound < EPSILON
    assert sound.curve_p > 1e-4


@pytest.mark.parametrize(
    ("fault", "witness"),
    [
        ("noise forgotten", "empirical bound"),
        ("noise forgotten", "noise scale"),
        ("noise forgotten", "fresh noise"),
        ("clip off by a factor of two", "clip"),
        ("noise seed reused", "fresh noise"),
        ("batch not Poisson", "sample sizes"),
        ("batch not Poisson", "sample overlap"),
        ("private initialisation", "start"),
        ("private initialisation", "empirical bound"),
    ],
)
def test_each_fault_has_its_witness(sights, fault, witness):
    assert witness in sights[fault].seen_by


@pytest.mark.parametrize("fault", ["noise seed reused", "batch not Poisson"])
def test_the_attack_is_blind_to_some_faults_so_the_direct_tests_are_no_ornament(sights, fault):
    assert sights[fault].curve_p > 1e-4
    assert sights[fault].bound < EPSILON


def test_a_doubled_clip_is_seen_for_certain_by_the_direct_test_alone(sights):
    """As strong an attack as there is, on hundreds of canaries, finds more than nothing and less than what is claimed
    in most audits: the direct test is the one to rely on."""
    sight = sights["clip off by a factor of two"]
    assert sight.bound > 0.2
    (clip,) = (finding for finding in sight.tests if finding.name == "clip")
    assert not clip.holds
    assert clip.p_value is None
    assert "2" in clip.found
