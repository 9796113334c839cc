"""`python -m toolkit` is the command `danqing`."""

from toolkit.cli import main

main()
