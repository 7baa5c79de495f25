"""Save and load a net: one versioned ``.gbn`` file without pickles.

The file is an uncompressed zip of ``net.json``, the header, and ``arrays/0.npy``, ``arrays/1.npy``, ..., the values and
covariances that the header names by number.  Everything comes back bit for bit, memory layout included.

A file is read as if a stranger had made it.  Every claim of the header is checked, sizes before anything is allocated
for them, and the net is built by its own methods, so that a loaded net is one that could have been built by hand.
"""

from gbn.io.archive import write_whole
from gbn.io.reading import from_bytes, load
from gbn.io.writing import save, to_bytes

__all__ = ["from_bytes", "load", "save", "to_bytes", "write_whole"]
