"""Modules: state and reduction around the formulas of `layershift.functional`."""
