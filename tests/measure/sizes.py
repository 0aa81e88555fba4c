"""Of the network that the ruler is held to (conftest.py), and of what it keeps."""

FLOAT = 4
ROWS, NARROW, WIDE = 32, 64, 256
HIDDEN = ROWS * WIDE * FLOAT
