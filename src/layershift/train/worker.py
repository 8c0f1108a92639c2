"""One of the processes that `launch` starts: train, and leave the state, or the error, in its folder."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from layershift.train.config import Config
from layershift.train.run import train


def main(folder: Path) -> None:
    """Do the folder's job."""
    job, rank = json.loads((folder / "job.json").read_text()), os.environ["RANK"]
    tell = _writer(folder / "progress") if job.pop("tell") and rank == "0" else None
    job["progress"] = tell or job["progress"]
    try:
        run = train(Config(**job.pop("config")), job.pop("out"), **job)
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except Exception as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        (folder / f"error{rank}").write_text(json.dumps([kinds, str(error)]))
        raise SystemExit(1) from error
    if rank == "0":
        (folder / "state").write_text(run.state)


def _writer(path: Path) -> Callable[..., None]:
    def tell(*seen: Any) -> None:
        with path.open("a") as file:
            file.write(json.dumps(seen) + "\n")

    return tell


if __name__ == "__main__":
    main(Path(sys.argv[1]))
