"""fxmem's operators: native where a library is built, plain torch elsewhere.

Imports torch, never torch.fx.
"""

from .codec import decode as decode
from .codec import encode as encode
from .codec import encoded_bytes as encoded_bytes
from .codec import error_bound as error_bound
from .layout import memory_stride as memory_stride
from .library import NATIVE as NATIVE
from .library import native_version as native_version
from .masks import pack as pack
from .masks import packed_bytes as packed_bytes
from .masks import unpack as unpack
