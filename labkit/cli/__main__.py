"""`python -m labkit.cli`, where no script `labkit` is on the path."""

from labkit.cli import main

main(prog_name="labkit")
