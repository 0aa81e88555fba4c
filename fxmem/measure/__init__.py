"""The ruler: bytes kept for the backward, peak bytes and time of a training step."""

from fxmem.measure.heap import peak_bytes as peak_bytes
from fxmem.measure.residuals import Kept as Kept
from fxmem.measure.residuals import KeptTensor as KeptTensor
from fxmem.measure.residuals import kept as kept
from fxmem.measure.table import Measurement as Measurement
from fxmem.measure.table import Table as Table
from fxmem.measure.table import Variant as Variant
from fxmem.measure.table import measure as measure
from fxmem.measure.times import Times as Times
from fxmem.measure.times import step_times as step_times
