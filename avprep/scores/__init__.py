"""Scores: numbers about a clip, by which clips are selected. `catalogue.SCORES` lists them all."""
