"""`python -m avprep`."""

from avprep.cli import main

main()
