"""Attacks that decide whether a record was in the training data."""
