"""What membership attacks achieved."""
