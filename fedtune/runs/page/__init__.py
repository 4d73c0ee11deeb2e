"""The report of a run: one self-contained HTML page with its charts as inline SVG."""

from fedtune.runs.page.render import render_page

__all__ = ["render_page"]
