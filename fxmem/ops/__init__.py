"""fxmem's operators: native where a library is built, plain torch elsewhere.

Imports torch, never torch.fx.
"""

from .activations.codes import classify as classify
from .activations.codes import lookup as lookup
from .activations.operators import few_bit as few_bit
from .activations.operators import from_output as from_output
from .activations.operators import gated as gated
from .codec import decode as decode
from .codec import encode as encode
from .codec import encoded_bytes as encoded_bytes
from .codec import error_bound as error_bound
from .gated_linear import gated_linear as gated_linear
from .layout import memory_stride as memory_stride
from .masks import pack as pack
from .masks import packed_bytes as packed_bytes
from .masks import unpack as unpack
from .native import NATIVE as NATIVE
from .native import native_version as native_version
from .norms.backward import norm_backward as norm_backward
from .shrinking.operators import shrink as shrink
from .shrinking.operators import shrunk as shrunk
from .shrinking.operators import unshrink as unshrink
from .sketches.operators import KINDS as KINDS
from .sketches.operators import follow as follow
from .sketches.operators import project as project
from .sketches.operators import rows_of as rows_of
from .sketches.operators import sample as sample
from .sketches.operators import sketch as sketch
from .vocabulary.operators import linear_cross_entropy as linear_cross_entropy
