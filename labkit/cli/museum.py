"""What does a shell see of the museum? `labkit museum` lists it, `labkit museum run NAME` tells one story."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from labkit.cli.common import json_option, print_json
from labkit.cpu import BACK_ENDS

if TYPE_CHECKING:
    from labkit.museum import Result, Specimen


@click.group("museum", invoke_without_command=True)
@json_option
@click.pass_context
def museum(context: click.Context, as_json: bool) -> None:
    """Real bugs of virtqueue kicks, each to be seen: list them, or run one."""
    if context.invoked_subcommand is not None:
        return
    from labkit.museum import find, names

    specimens = [find(name) for name in names()]
    if as_json:
        print_json([_facts(one) for one in specimens])
        return
    for one in specimens:
        commits = " ".join(one.commits)
        click.echo(f"{one.number:>2}  {click.style(one.name, bold=True)}  {one.rule}, {one.where} {commits}".rstrip())
        click.echo(f"    {one.happened}")


def _facts(one: Specimen) -> dict[str, Any]:
    names = ("number", "name", "where", "commits", "rule", "happened")
    return {name: getattr(one, name) for name in names} | {"scenario": one.scenario.name, "breaks": one.invariant.name}


@museum.command("run")
@click.argument("name")
@click.option("--cpu", type=click.Choice(BACK_ENDS), default="auto", show_default=True, help="Who executes the guest.")
@click.option("--no-search", is_flag=True, help="Play the forced order only.")
@json_option
@click.pass_context
def run(context: click.Context, name: str, cpu: str, no_search: bool, as_json: bool) -> None:
    """Play one: its order event by event, then every order with the bug and without it.

    Exit code 0 if it shows what it says.
    """
    from labkit.museum import find
    from labkit.museum import run as play

    specimen = find(name)
    if not as_json:
        click.echo("\n".join(_before(specimen)))
    result = play(name, cpu, search=not no_search)
    if as_json:
        print_json(_facts(specimen) | result.as_json())
    else:
        click.echo("\n".join(_after(result)))
    context.exit(0 if result.breaks and (no_search or (result.found and result.holds_without)) else 1)


def _before(specimen: Specimen) -> list[str]:
    scenario = specimen.scenario
    return [
        f"{specimen.number} {specimen.name}, {specimen.where} {' '.join(specimen.commits)}".rstrip(),
        specimen.happened,
        "",
        f"scenario {scenario.name}: {scenario.story}",
        *(f"  vcpu{index}: {', '.join(map(str, steps))}" for index, steps in scenario.steps.items() if steps),
        *([f"  main: {', '.join(map(str, scenario.main))}"] if scenario.main else []),
        f"must hold: {', '.join(invariant.name for invariant in scenario.invariants)}",
        "",
    ]


def _after(result: Result) -> list[str]:
    invariant = result.specimen.invariant
    said = [
        f"with {result.name}, in this order ({result.schedule}):",
        *(f"  {event!r}" for event in result.forced.events),
        f"breaks: {', '.join(result.broken) or 'nothing'}",
    ]
    if result.breaks:
        said.append(f"  {invariant.name}: {invariant.broken}")
    said += [f"  {line}" for line in result.forced.stacks.splitlines()]
    if result.searched is not None and result.without is not None:
        shortest = next((f.schedule for f in result.searched.failures if f.invariant == invariant.name), "none")
        every = "every order" if result.without.complete else "some orders"
        held = "all hold" if not result.without.failures else "and something breaks"
        said += [
            "",
            f"search with it: {result.searched.schedules} orders tried, the shortest that breaks it: {shortest}",
            f"without it: {every}, {result.without.schedules} of them: {held}",
            f"({result.seconds:.1f} s on {result.cpu})",
        ]
    return said
