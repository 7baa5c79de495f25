"""Reads damaged files in a process of its own, with bounded memory and time, and reports what became of each.

    python tests/hostile.py KIND FILES...      KIND: gbn, npz or pt2

One JSON line a file: {"file", "error": name of the exception type or null, "gbn": whether it is one of gbn's,
"message", "ran": what was executed that must not be}.  A file that takes too long or too much kills the process, after
the line of the one before it.
"""

import json
import resource
import sys
import warnings
from pathlib import Path

FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "os.mkdir", "pickle.find_class")
SECONDS = 20
MEMORY = 1 << 30  # more than what the reader has taken by then

ran: list[str] = []
watching = False


def watch(event, arguments):
    """Note what runs.  Torch reads tables of tensors by an unpickler of its own, which raises none of these."""
    if watching and event in FORBIDDEN:
        ran.append(f"{event}{arguments}")


def reader(kind):
    from gbn.cli import sources

    if kind == "npz":
        return sources.read_arrays
    if kind == "gbn":
        import gbn

        return gbn.load
    import torch

    import gbn

    def read(path):
        net = gbn.convert(path)
        module = sources.module_of(str(path))
        return net, module

    # What torch imports when it is first used is no affair of the files.
    torch.export.export(torch.nn.Linear(1, 1), (torch.ones(2, 1),)).run_decompositions()
    return read


def main(kind, *paths):
    global watching
    read = reader(kind)
    read(paths[0])
    sys.addaudithook(watch)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    from gbn.errors import GbnError

    for path in paths:
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit = int(used.ru_utime + used.ru_stime) + SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        ran.clear()
        error = None
        watching = True
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(Path(path))
        except Exception as caught:
            error = caught
        watching = False
        found = {
            "file": path,
            "error": None if error is None else type(error).__name__,
            "gbn": isinstance(error, GbnError),
            "message": str(error),
            "ran": ran[:3],
        }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
