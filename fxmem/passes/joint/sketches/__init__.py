"""Weight gradients from sketches, in the joint graph."""
