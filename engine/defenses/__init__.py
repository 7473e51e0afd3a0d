"""Defenses that a recipe may train with, one file each."""
