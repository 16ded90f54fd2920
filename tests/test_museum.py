"""Does every specimen show its bug: by its order at once, by the search as well, and only with its mutation?

On the emulated CPU each is searched in every order. On KVM, where a deassign waits for the kernel, the orders are
played and not searched.
"""

import json
from collections.abc import Callable

import pages
import pytest
from click.testing import CliRunner
from collection import MUSEUM, markdown, row, step_list, stories, without_seconds

import labkit
from labkit import cli, museum, races
from labkit.museum import Result

NAMES = museum.names()
ONLY_WITH_THE_BUG = ("lock-and-wait", "handler-wins-after-stop")  # an actor of theirs goes on where it has to wait
_results: dict[str, Result] = {}


def searched(name: str) -> Result:
    """The result of one on the emulated CPU, played once for all tests."""
    if name not in _results:
        _results[name] = museum.run(name, "emulated")
    return _results[name]


@pytest.mark.guest
@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("name", NAMES)
def test_the_forced_order_breaks_its_invariant(name: str, cpu: str) -> None:
    """With its mutation a specimen breaks what it is about, on the first try."""
    result = museum.run(name, cpu, search=False)
    assert museum.find(name).invariant.name in result.broken
    assert result.cpu == cpu


@pytest.mark.guest
@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("name", NAMES)
def test_the_forced_order_holds_without_the_mutation(name: str, cpu: str) -> None:
    """Every invariant of the scenario holds in that order, or there is no such order."""
    if name in ONLY_WITH_THE_BUG:
        with pytest.raises(labkit.UsageError, match="which cannot"):
            races.replay(name, museum.find(name).order, cpu=cpu)
        return
    assert races.replay(name, museum.find(name).order, cpu=cpu).broken == ()


@pytest.mark.emulated
@pytest.mark.parametrize("name", NAMES)
def test_the_search_finds_it_too(name: str) -> None:
    """Who does not know the order finds one that breaks the same invariant."""
    assert searched(name).found


@pytest.mark.emulated
@pytest.mark.parametrize("name", NAMES)
def test_without_its_mutation_every_order_holds(name: str) -> None:
    """The same scenario in every order there is: nothing breaks."""
    result = searched(name)
    assert result.without is not None
    assert (result.without.failures, result.complete, result.holds_without) == ((), True, True)


def test_the_page_has_each_specimen_as_it_was_played() -> None:
    """The table of docs/museum.md lists exactly the specimens there are, by number."""
    said = pages.section(MUSEUM.read_text(), "museum", by="make museum").splitlines()
    assert [line.split(" | ")[1] for line in said if line.startswith("| ")][2:] == NAMES


@pytest.mark.emulated
@pytest.mark.parametrize("name", NAMES)
def test_the_page_tells_what_is_found(name: str) -> None:
    """The row of a specimen on the page is the one that `make museum` would write now, but for its seconds."""
    said = pages.section(MUSEUM.read_text(), "museum", by="make museum").splitlines()
    assert markdown([], [row(searched(name))]).splitlines()[-1] in map(without_seconds, said)


def test_the_page_has_every_story_and_every_step() -> None:
    """What happened, and which steps nobody misses, stand there as they are in the code."""
    text = MUSEUM.read_text()
    assert pages.section(text, "stories", by="make museum") == stories()
    assert pages.section(text, "steps", by="make museum") == step_list()


def test_numbers_and_names_are_used_once() -> None:
    """A specimen has a number of the list of bugs and a name, each its own, and its mutation has the same name."""
    specimens = [museum.find(name) for name in NAMES]
    assert len({one.number for one in specimens}) == len(NAMES)
    assert [one.mutation.name for one in specimens] == NAMES
    with pytest.raises(labkit.UsageError, match="no-such-bug"):
        museum.find("no-such-bug")


# -- how it is shown ---------------------------------------------------------------------------------------------------


@pytest.mark.emulated
def test_a_result_prints_what_came_of_it() -> None:
    """As text and as HTML: the order, what breaks, and how many orders were tried."""
    result = searched("lost-kick-at-deassign")
    orders = f"{result.schedules_without} orders, all there are"
    for said in (repr(result), result._repr_html_()):
        assert all(part in said for part in (result.schedule, "every-kick-is-served", orders, "all hold"))


def test_the_verb_lists_every_specimen() -> None:
    """`labkit museum`: number, name, rule and what happened; the same with --json."""
    listed = CliRunner().invoke(cli.main, ["museum"])
    told = json.loads(CliRunner().invoke(cli.main, ["museum", "--json"]).stdout)
    assert [one["name"] for one in told] == NAMES
    assert all(str(one["number"]) in listed.stdout and one["happened"] in listed.stdout for one in told)


def test_the_verb_tells_the_story_of_one(cpu: str) -> None:
    """`labkit museum run`: the bug, the order with the actor in front of each event, and what breaks for the guest."""
    told = CliRunner().invoke(cli.main, ["museum", "run", "lost-kick-at-deassign", "--cpu", cpu])
    assert told.exit_code == 0, told.output
    specimen = museum.find("lost-kick-at-deassign")
    assert specimen.happened in told.stdout and specimen.invariant.broken in told.stdout
    assert "  vcpu0     queue 0 deassign" in told.stdout
    assert "without it: every order" in told.stdout


def test_the_verb_gives_one_as_json(cpu: str) -> None:
    """The same as one JSON value, without a search if that is asked for."""
    run = ["museum", "run", "lost-kick-at-deassign", "--no-search", "--json", "--cpu", cpu]
    told = json.loads(CliRunner().invoke(cli.main, run).stdout)
    assert told["broken"] == ["every-kick-is-served"]
    assert any("deassign" in event for event in told["events"])


def test_an_unknown_specimen_is_the_callers_mistake() -> None:
    """One line on stderr, and exit code 2."""
    refused = CliRunner().invoke(cli.main, ["museum", "run", "no-such-bug"])
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "no-such-bug" in refused.stderr


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("name", NAMES)
def test_every_mutation_boots_with_any_disk_or_says_why_not(boot: Callable[..., labkit.Machine], name: str) -> None:
    """A bug of one kind of device is not another's: the caller is told, and nothing is left of the machine."""
    if name == "reentrant-start":
        with pytest.raises(
            labkit.UsageError, match=r"boot\(labkit.museum.reentrant_start.DataPlane\(\), ...\), not 'blk'"
        ):
            boot("blk", mutations=[name])
    else:
        assert boot("blk", mutations=[name], bring_up=False).state == "running"


def test_a_machine_shows_the_museum_as_cards(boot: Callable[..., labkit.Machine]) -> None:
    """`vm.museum` has a card for each specimen, and the one that is asked for can be run."""
    vm = boot("blk")
    assert len(vm.museum) == len(NAMES)
    assert all(name in vm.museum._repr_html_() and name in repr(vm.museum) for name in NAMES)
    card = vm.museum["lost-kick-at-deassign"]
    assert "R5" in repr(card) and "R5" in card._repr_html_()
    assert card.run(search=False).breaks
