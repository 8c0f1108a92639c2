"""What an alarm says, and what to try against each kind of trouble."""

from __future__ import annotations

from typing import NamedTuple


class Alarm(NamedTuple):
    """Something is wrong with a layer.

    Attributes:
        step: the step at which it was noticed.
        layer: the layer's name; "" is the network as a whole.
        unit: the unit (channel), None for the whole layer.
        kind: what is wrong, such as `"dead"`; any word for a rule of one's own.
        measure: what was measured.
        value: what it was.
        limit: what it should not have passed.
        message: all of this as a sentence.
        advice: what to try.

    Example:
        >>> Alarm(40, "relu3", None, "dead", "dead", 0.9, 0.5, "0.9 of relu3 is dead", "lower the learning rate").kind
        'dead'
    """

    step: int
    layer: str
    unit: int | None
    kind: str
    measure: str
    value: float
    limit: float
    message: str
    advice: str

    def __str__(self) -> str:
        return f"{self.message}. To try: {self.advice}" if self.advice else self.message


ADVICE = {
    "dead": "lower the learning rate or warm it up; use LeakyReLU or ELU in place of ReLU; start biases at 0; put a "
    "normaliser before the activation",
    "saturated": "scale the initial weights down (Xavier for tanh and sigmoid); put a normaliser before the "
    "activation; lower the learning rate; bound the activations with ls.regularize(model, ls.nn.PER()). An output "
    "layer that is sure of itself saturates as it should: leave it out with `layers`",
    "collapsed": "check that the inputs differ and that initial weights and biases do (no zeros, no copies); lower the "
    "learning rate or the weight of a penalty such as PER; put a normaliser before the activation; add a skip "
    "connection",
    "exploding": "lower the learning rate or warm it up; clip gradients (torch.nn.utils.clip_grad_norm_); insert a "
    "normaliser, or change it with ls.convert; bound the activations with ls.regularize(model, ls.nn.PER())",
    "vanishing": "scale the initial weights up (Kaiming for ReLU, Xavier for tanh); lower weight decay or the weight "
    "of a penalty; put a normaliser before the activation; add a skip connection",
    "nonfinite": "lower the learning rate; with mixed precision use loss scaling or bfloat16; enlarge the eps of "
    "divisions, roots and logarithms; clip gradients; look for NaN in the inputs; it began in the "
    "layer that is named first",
    "shift": "lower the learning rate or warm it up; clip gradients; look at the batches since the last measured "
    "step; convert normalisers with ls.convert",
}
"""What to try, by kind of alarm."""
