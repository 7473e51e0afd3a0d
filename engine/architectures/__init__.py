"""Architectures that a subject may name, one file each."""
