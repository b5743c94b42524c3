"""Figures, each drawn from one table of this package: thin functions that compute nothing.

A figure is a plain dict with `data` and `layout`, plotly's own JSON: `plotly.graph_objects.Figure(figure)` shows it in a
notebook. The report writes 1,260 trials as about twenty figures; plotly's classes would take seconds to check what a test
checks once.
"""
