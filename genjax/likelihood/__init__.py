"""Estimators of log p(x), each with its kind: exact, lower bound in expectation, or estimate."""
