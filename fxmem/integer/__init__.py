"""Layers that compute in integers of 8 bits and of 1, and keep those integers alone."""

from .absmax import Absmax as Absmax
from .functional import conv1d as conv1d
from .functional import conv2d as conv2d
from .functional import linear as linear
from .methods import Method as Method
from .methods import method_of as method_of
