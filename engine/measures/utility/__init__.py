"""What the model is still good for."""
