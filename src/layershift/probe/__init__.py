"""Read a trained network by depth, and leave it early.

A classifier at every layer says what that layer knows of the labels; transport between label distributions says how far
that is from the truth; samples are easy, hard or confused; and where a layer is sure enough, computing can stop.
"""

from layershift.probe.depth import adjacent_table, depth_table, epoch_table, sample_distances
from layershift.probe.difficulties import Difficulty, difficulty
from layershift.probe.early_exit import EarlyExit, ExitOutput, FullDepth, run_exits
from layershift.probe.exits import Exits, evaluate_exits
from layershift.probe.features import Extractor, Features
from layershift.probe.fitting import fit
from layershift.probe.heads import InternalClassifiers
from layershift.probe.label_costs import cooccurrence_cost, cost_between, embedding_cost, label_embeddings
from layershift.probe.layers import choose_layers, default_layers
from layershift.probe.outputs import LayerOutputs
from layershift.probe.over_thinking import Overthinking, overthinking
from layershift.probe.probe import Probe, label_probabilities
from layershift.probe.results import replace_exits, write_results
from layershift.probe.rules import Agreement, Confidence, Entropy, ExitRule, LabelCount, exit_rule
from layershift.probe.search import ExitPoint, ExitSearch, search_exits
from layershift.probe.stages import exit_costs, split

__all__ = [
    "Agreement",
    "Confidence",
    "Difficulty",
    "EarlyExit",
    "Entropy",
    "ExitOutput",
    "ExitPoint",
    "ExitRule",
    "ExitSearch",
    "Exits",
    "Extractor",
    "Features",
    "FullDepth",
    "InternalClassifiers",
    "LabelCount",
    "LayerOutputs",
    "Overthinking",
    "Probe",
    "adjacent_table",
    "choose_layers",
    "cooccurrence_cost",
    "cost_between",
    "default_layers",
    "depth_table",
    "difficulty",
    "embedding_cost",
    "epoch_table",
    "evaluate_exits",
    "exit_costs",
    "exit_rule",
    "fit",
    "label_embeddings",
    "label_probabilities",
    "overthinking",
    "replace_exits",
    "run_exits",
    "sample_distances",
    "search_exits",
    "split",
    "write_results",
]
