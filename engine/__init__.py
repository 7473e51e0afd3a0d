"""The engine: from a policy and a model to measurements, findings and a verdict."""
