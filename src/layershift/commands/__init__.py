"""What the commands of the command line do: plain functions that compute, write and say what came of it.

Rooms are imported when a command needs them, so that help and version are there at once.
"""

from layershift.commands.exiting import exits
from layershift.commands.flowing import flow
from layershift.commands.probing import probe
from layershift.commands.runs import demo, report, train, watch
from layershift.commands.tables import recipes, reproduce
from layershift.commands.words import UsageError, command_of, parse_changes, say

__all__ = [
    "UsageError",
    "command_of",
    "demo",
    "exits",
    "flow",
    "parse_changes",
    "probe",
    "recipes",
    "report",
    "reproduce",
    "say",
    "train",
    "watch",
]
