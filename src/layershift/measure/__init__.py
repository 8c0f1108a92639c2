"""Streaming measures: torchmetrics with error bars, reduced across processes."""

from layershift.measure.critic import Critic, CriticDistance, critic_distances
from layershift.measure.estimate import Estimate
from layershift.measure.health import Health
from layershift.measure.label_transport import LabelTransport
from layershift.measure.moments import Moments
from layershift.measure.multilabel import MultiLabelResult, MultiLabelScores
from layershift.measure.neuron_speeds import NeuronSpeeds, Speeds, speeds
from layershift.measure.normality import Normality
from layershift.measure.pairs import ShiftBounds
from layershift.measure.shift import Shift

__all__ = [
    "Critic",
    "CriticDistance",
    "Estimate",
    "Health",
    "LabelTransport",
    "Moments",
    "MultiLabelResult",
    "MultiLabelScores",
    "NeuronSpeeds",
    "Normality",
    "Shift",
    "ShiftBounds",
    "Speeds",
    "critic_distances",
    "speeds",
]
