"""How much longer `import gbn` takes than the libraries it stands on; the aim is at most 0.4 s.

Fresh processes, the two statements taking turns, so that a busy machine slows both alike.
"""

import argparse
import statistics
import subprocess
import sys
import time

FOUNDATION = "import numpy, scipy.linalg, scipy.sparse, networkx"
STATEMENTS = {"foundation": FOUNDATION, "with gbn": f"{FOUNDATION}, gbn"}
LIMIT = 0.4


def seconds(statement: str) -> float:
    """Wall-clock time of one fresh interpreter that runs the statement and exits."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def measure(rounds: int) -> dict[str, float]:
    """Median seconds per statement, after one unmeasured round that fills the file cache."""
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for turn in range(rounds + 1):
        for name, statement in STATEMENTS.items():
            elapsed = seconds(statement)
            if turn > 0:
                times[name].append(elapsed)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11, help="measured processes per statement (default: 11)")
    medians = measure(parser.parse_args().rounds)
    for name, median in medians.items():
        print(f"{name:12} {median:.3f} s")
    added = medians["with gbn"] - medians["foundation"]
    ratio = medians["with gbn"] / medians["foundation"]
    print(f"{'added':12} {added:.3f} s (aim: at most {LIMIT} s), ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
