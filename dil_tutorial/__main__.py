"""``python -m dil_tutorial``: the command line without installation, from the source folder."""

from dil_tutorial.cli import main

main()
