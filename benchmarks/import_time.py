"""What `import layershift` adds to `import torch`: fresh interpreters, one after the other, in turn."""

from __future__ import annotations

import statistics
import subprocess
import sys

from _timing import Case, Times, arguments, judged, report

CLOCK = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def seconds(modules: str) -> float:
    """How long a fresh interpreter takes to import modules."""
    done = subprocess.run([sys.executable, "-c", CLOCK.format(modules)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    options = arguments(__doc__ or "")
    both: dict[str, list[float]] = {"torch": [], "torch, layershift": []}
    for modules in both:  # once, to fill the file system's cache
        seconds(modules)
    for _ in range(max(options.repeats // 2, 5)):
        for modules, times in both.items():
            times.append(seconds(modules))
    added = Times([b - a for a, b in zip(*both.values(), strict=True)])
    detail = f"import torch {statistics.median(both['torch']):.3g} s"
    case = judged("import layershift beyond import torch", added, 0.3, detail=detail)
    report("import time", [Case(**{**vars(case), "unit": "s"})], options.out)


if __name__ == "__main__":
    main()
