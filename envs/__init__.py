"""The worlds. They know nothing of models."""
