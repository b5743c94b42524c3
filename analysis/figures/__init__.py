"""Figures. Each is drawn from one table of this package, by a thin function that computes nothing.

A figure is a plain dict with `data` and `layout`, which is plotly's own JSON. `plotly.graph_objects.Figure(figure)` shows it in a
notebook. plotly's classes are not used: they check every value, which takes seconds for the twenty figures of a report. A test
checks the figures once instead.
"""
