"""A folder of a figure or theorem about batch normalisation's geometry to one page that shows it."""

from layershift.report.flow.page import write_flow_page

__all__ = ["write_flow_page"]
