"""The sections of a report, one file each: what they show of one experiment or of several in one summary."""
