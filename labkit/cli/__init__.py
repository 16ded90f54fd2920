"""What can be done from a shell? `labkit doctor | boot | receive | migrate | replay | bench | museum | lab | new-lab`,
each with --json.

Each verb has a module, which says in one line what it tells; `machines.py` has what several tell of a machine.
"""

import click

from labkit import __version__
from labkit.cli.bench import bench
from labkit.cli.boot import boot
from labkit.cli.common import EXIT_CODES, Verbs
from labkit.cli.doctor import doctor
from labkit.cli.lab import lab, new_lab
from labkit.cli.migrate import migrate
from labkit.cli.museum import museum
from labkit.cli.receive import receive
from labkit.cli.replay import replay

__all__ = ["EXIT_CODES", "Verbs", "main"]


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="labkit")
def main() -> None:
    """Boot tiny KVM guests and watch who handles each virtqueue kick."""


for verb in (doctor, boot, migrate, receive, replay, bench, museum, lab, new_lab):
    main.add_command(verb)
