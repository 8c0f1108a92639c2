"""What a probe leaves in its folder, read as plain files.

`probe.json` is one object. A key that is missing, null or empty is left out of the page; only `layers` and `labels`
must be there. Numbers that are not finite are null.

| key | what it holds |
| --- | --- |
| `format` | "layershift probe, version 1" |
| `written` | the time, ISO 8601 |
| `versions` | by package |
| `about` | what was probed, by name of the fact: plain values; `title` and `command` have places of their own |
| `task` | "single_label" or "multi_label" |
| `layers` | names of the L layers in order of depth, the last "output" |
| `labels` | names of the K labels |
| `main` | the name of the data that difficulty, over-thinking and gallery are about |
| `splits` | how many samples each set of data has, by its name |
| `cost` | `largest` and `mean` (over pairs of different labels) of the costs between labels |
| `methods` | names of the distances, the main one first |
| `depth` | rows `split, method, layer, mean, stderr, n, left_out, estimator` |
| `scores` | rows `split, layer, accuracy, accuracy_stderr, cf1, of1, of1_stderr, map, n`, shares of 1 |
| `epochs` | rows `epoch, other` (null)`, layer, mean, stderr, n, left_out, estimator`: distance to the target |
| `adjacent` | the same, from `epoch` to `other` |
| `difficulty` | `counts` by kind; `thresholds` by name; `quantiles`, two; `early` and `late`, layers; `of` |
| `overthinking` | `rows` of `layer, first, first_stderr, share, share_stderr`; `accuracy`, `ideal`, `…_stderr`; `n` |
| `exits` | rows: `rule`, a text or an object; `accuracy`, `accuracy_stderr`, `cf1`, `of1`, `map`, and `full_…` of the |
| | full network; `difference`, `difference_stderr`; `cost`, share of its operations; `shares` that leave, one a |
| | layer; any others become columns |
| `gallery` | samples: `id`; `kind`; `image`, a path inside the folder or null; `target`, places of labels; `correct` |
| | and `distances`, one a layer; `distributions`, L rows of K numbers |
| `course` | `epochs`, `layers`, and `samples` of `id`, `target`, `distributions` by layer, epoch and label |

Beside it lie `gallery/*.png` and `outputs/*.npz`; of the latter the page needs nothing.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from layershift.report.results import Results, numeric, read_content

FORMAT = "layershift probe, version 1"
_PNG = b"\x89PNG\r\n\x1a\n"
_LARGEST = 4_000_000


class ProbeResults(Results):
    """The content of `probe.json`."""

    @property
    def layers(self) -> list[str]:
        """Names of the layers, in order of depth."""
        return [str(name) for name in self.content["layers"]]

    @property
    def labels(self) -> list[str]:
        """Names of the labels."""
        return [str(name) for name in self.content["labels"]]

    @property
    def main(self) -> str:
        """The name of the main data."""
        return str(self.content.get("main") or next(iter(self.mapping("splits")), "test"))

    @property
    def methods(self) -> list[str]:
        """Names of the distances, the main one first."""
        named = [str(name) for name in self.content.get("methods") or ()]
        return named or list(dict.fromkeys(str(row.get("method")) for row in self.rows("depth")))

    def image(self, name: str | None) -> str | None:
        """A picture of the folder as a data URI; None if it is missing, outside the folder, or no PNG."""
        if not name:
            return None
        try:
            path = (self.folder / name).resolve()
            if not path.is_relative_to(self.folder.resolve()) or not path.is_file() or path.stat().st_size > _LARGEST:
                return None
            data = path.read_bytes()
        except (OSError, ValueError):  # no file has such a name: it is too long, or holds a zero
            return None
        return f"data:image/png;base64,{base64.b64encode(data).decode()}" if data.startswith(_PNG) else None


def read_results(folder: str | Path) -> ProbeResults:
    """Read `probe.json`.

    Args:
        folder: where it lies, or the file itself.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or something else.
    """
    absent = "no results of a probe; “layershift probe” writes them"
    path, content = read_content(folder, "probe.json", form=FORMAT, absent=absent)
    for key in ("layers", "labels"):
        if not isinstance(content.get(key), list) or not content[key]:
            raise ValueError(f"{path}: expected a list of names under {key!r}")
    return ProbeResults(path.parent, content)


def value(row: Mapping[str, Any], key: str) -> float:
    """A number of a row; NaN for null, what is missing, and what is none."""
    return numeric(row.get(key))


def series(rows: Sequence[Mapping[str, Any]], layers: Sequence[str], key: str) -> list[float]:
    """A number of each layer, NaN where the rows have none."""
    known = {str(row.get("layer")): value(row, key) for row in rows}
    return [known.get(layer, math.nan) for layer in layers]
