"""The tables and figures of the papers: `recipes`, `reproduce`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from layershift.commands.configure import find_recipe
from layershift.commands.words import command_of, parse_changes, say

if TYPE_CHECKING:
    from layershift.train.comparison import Comparison
    from layershift.train.config import ScaleName


def recipes(*, names: list[str]) -> None:
    """List the tables and figures that can be run, or show what some of them do."""
    from layershift.train.recipe import recipes as known

    if not names:
        for name in known():
            say(f"{name:<12} {find_recipe(name).title}")
        say("layershift recipes NAME shows one; layershift reproduce NAME --scale smoke|laptop|paper runs it.")
    for name in names:
        found = find_recipe(name)
        say(f"{found.name}: {found.title}\n\n{found.about.strip()}\n")
        say(f"settings: {', '.join(s for s in found.settings if s) or 'one'}")
        say(f"methods:  {', '.join(found.methods)}")
        say(f"seeds:    {', '.join(f'{scale} {found.seeds_at(scale)}' for scale in ('smoke', 'laptop', 'paper'))}")


def reproduce(
    *,
    name: str,
    changes: list[str],
    scale: ScaleName,
    out: Path | None,
    methods: list[str],
    settings: list[str],
    seeds: int | None,
    data_root: str | None,
    workers: int | None,
    cluster: str | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Run a table or a figure of a paper, and compare: ours, published, and whether the claims hold.

    Runs that are in the folder already are kept, so the same command continues where it was stopped.
    """
    from layershift.report import write_report
    from layershift.train.comparison_text import count, markdown
    from layershift.train.recipe import slug
    from layershift.train.reproduce import reproduce as run_all

    recipe = find_recipe(name)
    out = Path("runs") / "-".join([*recipe.name.split("/"), scale]) if out is None else out
    values = parse_changes(changes) | ({} if data_root is None else {"data_root": data_root})
    try:
        table = run_all(
            recipe,
            out,
            scale=scale,
            changes=values,
            methods=methods,
            settings=settings,
            seeds=seeds,
            workers=workers,
            cluster=cluster,
            overwrite=overwrite,
            progress=not quiet,
            command=command_of(sys.argv),
        )
    except KeyboardInterrupt:
        say(f"Finished runs are in {out}; the same command continues.", error=True)
        raise
    say(markdown(table))
    for place in dict.fromkeys(cell.setting for cell in table.cells):
        folder = out / slug(place)
        stores = [store for cell in table.cells if cell.setting == place for store in cell.stores]
        if stores:
            say(f"Open {write_report(stores, folder / 'report.html', title=_page_title(table, place))} in a browser.")
    say(f"{count(table)} The table is in {out / 'table.md'}.")


def _page_title(table: Comparison, setting: str) -> str:
    return f"{table.recipe.name}: {setting or table.recipe.title}, {table.scale} scale"
