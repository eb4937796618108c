"""`python -m qdojo`: the command line, where the console script is not on the path."""

from qdojo.cli import main

main()
