"""Quantizers: WAGEUBN, DoReFa-Net, BinaryConnect, BinaryNet, XNOR-Net and trained thresholds.

q = fxmem.quantizers.dorefa.weight(bits=2)
y = q(w)  # differentiable, as published
packed = q.pack(w)  # two bits an element; packed.values() is exactly q.value(w)
"""

from . import binary as binary
from . import dorefa as dorefa
from . import wageubn as wageubn
from .binary import Binary as Binary
from .binary import XnorWeight as XnorWeight
from .binary import glorot_scale as glorot_scale
from .binary import input_scale as input_scale
from .packed import Packed as Packed
from .quantizer import Quantizer as Quantizer
from .quantizer import quantize_gradient as quantize_gradient
from .rounding import magnitude as magnitude
from .rounding import stochastic_round as stochastic_round
from .tqt import log2_threshold as log2_threshold
from .tqt import tqt as tqt
from .tqt import tqt_pack as tqt_pack
