"""`python -m evermodel.cli VERB`."""

from evermodel.cli.app import main

main()
