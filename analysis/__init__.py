"""Turns tables of results into curves, ratios, figures and a report."""
