"""File formats of models and data, one file each; none executes code from the file."""
