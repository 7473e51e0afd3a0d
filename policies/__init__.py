"""Policies that ship with midguard."""
