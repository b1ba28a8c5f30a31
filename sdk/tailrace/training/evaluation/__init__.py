"""A fitted model, measured on rows: `Evaluator`, its tables and figures."""
