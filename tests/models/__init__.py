"""Models that people train, in small: every preset trains them, whatever torch feature is in the way."""
