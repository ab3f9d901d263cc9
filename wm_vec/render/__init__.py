"""Frames, tables and plots."""
