"""Estimators with scikit-learn's interface, fitted in a run: `fit`, and its steps."""
