"""`python -m tempa` is the same command as `tempa`."""

from tempa.cli import main

main()
