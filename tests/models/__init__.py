"""Models that people train, in small: every preset trains them, whatever feature is in the way."""
