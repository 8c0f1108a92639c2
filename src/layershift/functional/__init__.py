"""Formulas: tensors in, tensors out; unreduced; without state."""
