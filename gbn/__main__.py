"""``python -m gbn``: the command line, see :mod:`gbn.cli`."""

import sys

from gbn.cli import main

if __name__ == "__main__":
    sys.exit(main())
