"""Whole runs, one readable file each; copy one to change it."""
