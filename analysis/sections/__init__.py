"""Chapters of the report. Each module turns derived tables into one `analysis.page.Section` and computes nothing new."""
