"""What inversion attacks achieved."""
