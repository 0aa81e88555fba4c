"""The loss over a vocabulary, in chunks that never keep the logits."""
