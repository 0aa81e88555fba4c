"""The demo: one language model, one text, trained in every way to keep its activations."""
