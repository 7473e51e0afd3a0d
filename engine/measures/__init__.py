"""The measures: from a raw observation to a value with an interval, one file each."""
