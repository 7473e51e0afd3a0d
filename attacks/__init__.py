"""The attacks: one file each, found by its path."""
