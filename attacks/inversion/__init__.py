"""Attacks that reconstruct what the model was trained on or what it was shown."""
