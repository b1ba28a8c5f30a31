"""Rows, metrics and predictions: what fits and evaluations measure with."""
