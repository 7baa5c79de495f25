"""The command line: ``gbn convert | query | learn | compare | show | report | export``, also as ``python -m gbn``.

Results go to stdout, everything else to stderr.  Exit codes: 0 done, 1 a comparison that does not agree, 2 wrong usage
or input, 130 interrupted.
"""

from gbn.cli.commands import main

__all__ = ["main"]
