"""Rivals: other ways to turn a session into a vector, written as embeddings artefacts."""
