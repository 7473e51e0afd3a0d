"""Accountants: from what happened to what it cost, one file each."""
