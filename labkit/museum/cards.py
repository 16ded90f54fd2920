"""How does the museum look in a notebook? A card for each specimen; one of them is `vm.museum["its-name"]`."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from labkit import museum, views
from labkit.museum.result import Result
from labkit.museum.specimen import Specimen

CARDS = 'style="display: flex; flex-wrap: wrap; gap: 8px"'
CARD = (
    'style="border: 1px solid var(--jp-border-color2, #bbb); border-radius: 4px; padding: 8px; width: 17em; '
    'text-align: left"'
)


class Card:
    """One specimen, to be read and to be run."""

    def __init__(self, specimen: Specimen, cpu: str) -> None:
        self.specimen, self._cpu = specimen, cpu

    def run(self, *, search: bool = True) -> Result:
        """As `labkit.museum.run`, on a machine of its own."""
        return museum.run(self.specimen.name, self._cpu, search=search)

    def _values(self) -> dict[str, object]:
        one = self.specimen
        return {
            "what happened": one.happened,
            "where": f"{one.where} {' '.join(one.commits)}".strip(),
            "rule": one.rule,
            "scenario": one.scenario.story,
            "it breaks": f"{one.invariant.name}: {one.invariant.broken}",
            "to see it": f'labkit.museum.run("{one.name}"), or boot(mutations=["{one.name}"])',
        }

    def html(self) -> str:
        """The card."""
        one = self.specimen
        return (
            f"<div {CARD}><b>{one.number} {escape(one.name)}</b><br>{escape(one.happened)}<br>"
            f"<small>{escape(one.rule)}, {escape(one.where)} {escape(' '.join(one.commits))}</small></div>"
        )

    def _repr_html_(self) -> str:
        return views.named(f"{self.specimen.number} {self.specimen.name}", self._values())

    def __repr__(self) -> str:
        return views.lines(f"{self.specimen.number} {self.specimen.name}", self._values())


class Cards:
    """Every specimen, as cards."""

    def __init__(self, cpu: str = "auto") -> None:
        self._cpu = cpu

    def __getitem__(self, name: str) -> Card:
        """UsageError: there is none of that name."""
        return Card(museum.find(name), self._cpu)

    def __iter__(self) -> Iterator[Card]:
        return (self[name] for name in museum.names())

    def __len__(self) -> int:
        return len(museum.names())

    def _repr_html_(self) -> str:
        return f"<div {CARDS}>{''.join(card.html() for card in self)}</div>"

    def __repr__(self) -> str:
        happened = {f"{card.specimen.number} {card.specimen.name}": card.specimen.happened for card in self}
        return views.lines("museum", happened)
