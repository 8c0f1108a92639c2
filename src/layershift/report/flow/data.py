"""What an experiment on batch normalisation's geometry leaves in its folder, read as a plain file.

`flow.json` is one object. A key that is missing, null or empty is left out of the page; only `kind`, `number` and
`title` must be there. Numbers that are not finite are null.

| key | what it holds |
| --- | --- |
| `format` | "layershift flow, version 1" |
| `written` | the time, ISO 8601 |
| `versions` | by package |
| `seconds` | how long it took |
| `about` | more facts by name: plain values; `command` has a place of its own |
| `kind`, `number` | "figure" or "theorem", and which one of the paper |
| `title`, `statement` | what the page is called, and what the paper says |
| `settings` | everything that was chosen, by name: plain values or lists of them |
| `claims` | rows `claim, expected, value, spread, n, holds, note`: `spread` is a standard deviation or null, `holds` |
| | true, false, or null for a number without a verdict |
| `plots` | rows `key, title, x_title, y_title, curves, log, note`; `log` names the logarithmic axes, as "xy" |
| … `curves` | rows `name, x, y, error, look`: `error` is a list or null, `look` "line", "points" or "theory" |
| `rings` | rows `title, iterations, groups`: by a group's name as many lists of angles, in radians, as iterations |
| `shown` | iterations that stand side by side; all of them make the animation |
"""

from __future__ import annotations

from pathlib import Path

from layershift.report.results import Results, read_content

FORMAT = "layershift flow, version 1"


class Flow(Results):
    """The content of `flow.json`."""

    @property
    def name(self) -> str:
        """Which figure or theorem, and what it is called."""
        return f"{str(self.content['kind']).capitalize()} {self.content['number']}: {self.content['title']}"

    @property
    def groups(self) -> list[str]:
        """Names of the groups of neurons in all rings, in order."""
        return list(dict.fromkeys(str(name) for ring in self.rows("rings") for name in ring.get("groups") or {}))


def read_flow(folder: str | Path) -> Flow:
    """Read `flow.json`.

    Args:
        folder: where it lies, or the file itself.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or something else.
    """
    absent = "no results of a figure or theorem; “layershift flow” writes them"
    path, content = read_content(folder, "flow.json", form=FORMAT, absent=absent)
    for key in ("kind", "number", "title"):
        if content.get(key) in (None, ""):
            raise ValueError(f"{path}: expected something under {key!r}")
    return Flow(path.parent, content)
