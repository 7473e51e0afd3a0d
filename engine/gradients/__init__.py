"""Gradients record by record, as sums of clipped ones; used by the defenses and by what trains reference models."""
