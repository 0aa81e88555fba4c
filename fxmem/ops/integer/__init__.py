"""What integer layers compute and store: bits, signs, scales, windows and products."""
