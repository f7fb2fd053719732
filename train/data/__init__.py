"""Texts, sentences and images, from files to batches."""
