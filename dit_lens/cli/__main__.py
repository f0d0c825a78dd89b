"""`python -m dit_lens.cli`: the command line without an installed program."""

from dit_lens.cli import main

main()
