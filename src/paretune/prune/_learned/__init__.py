"""Learned importance: gates over coupled channels, trained under a budget."""
