"""`python -m qdojo`: the command line, for when the console script is not on the path."""

from qdojo.cli import main

main()
