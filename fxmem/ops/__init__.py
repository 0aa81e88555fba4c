"""fxmem's operators: native where a library is built, plain torch elsewhere.

Imports torch, never torch.fx.
"""

from .activations import few_bit as few_bit
from .activations import from_output as from_output
from .activations import gated as gated
from .activations_codes import classify as classify
from .activations_codes import lookup as lookup
from .codec import decode as decode
from .codec import encode as encode
from .codec import encoded_bytes as encoded_bytes
from .codec import error_bound as error_bound
from .gated_linear import gated_linear as gated_linear
from .layout import memory_stride as memory_stride
from .linear_cross_entropy import linear_cross_entropy as linear_cross_entropy
from .masks import pack as pack
from .masks import packed_bytes as packed_bytes
from .masks import unpack as unpack
from .native import NATIVE as NATIVE
from .native import native_version as native_version
from .sketch import KINDS as KINDS
from .sketch import follow as follow
from .sketch import project as project
from .sketch import rows_of as rows_of
from .sketch import sample as sample
from .sketch import sketch as sketch
