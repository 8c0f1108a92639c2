"""A folder of a probe's results to one page that shows it."""

from layershift.report.probe.page import write_probe_report

__all__ = ["write_probe_report"]
