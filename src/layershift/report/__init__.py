"""Stores to one page that shows them."""

from layershift.report.page import write_report

__all__ = ["write_report"]
