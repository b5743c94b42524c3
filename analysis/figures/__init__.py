"""Figures, each drawn from one table of this package: a thin layer over plotly that computes nothing."""
