"""Whose attempt it was."""
