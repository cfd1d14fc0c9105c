"""Heads for dense tasks, each in one file: maps of a backbone in, answers for every place out."""
