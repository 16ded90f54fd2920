"""Do the specimens around starts, stops and saved states break what they say, in the order that they name?"""

import pytest

from labkit import museum, races

NUMBERS = (4, 5, 11, 12, 14, 15, 17, 18, 21, 24, 28, 36, 37)
HERE = [specimen for specimen in museum.names() if museum.find(specimen).number in NUMBERS]


def forced(name: str) -> str:
    """Return the specimen's order as a whole text."""
    scenario = museum.find(name).scenario
    return f"{scenario.name}:{scenario.fingerprint}:{museum.find(name).schedule}"


@pytest.mark.guest
@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("name", HERE)
def test_the_forced_order_breaks_the_invariant(name: str, cpu: str) -> None:
    """With the mutation the named invariant breaks, on the first try."""
    found = races.replay(name, forced(name), mutations=(name,), cpu=cpu)
    assert museum.find(name).invariant.name in found.broken


@pytest.mark.guest
@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("name", HERE)
def test_the_same_order_holds_without_the_mutation(name: str, cpu: str) -> None:
    """Every invariant of the scenario holds in that order."""
    assert races.replay(name, forced(name), cpu=cpu).broken == ()
