"""v3: the layout of sandlock 0.9.0: that of v2 but for the number and the policy."""

from sandlock_async.image import layout
from sandlock_async.image.v2 import make_format

FORMAT = make_format("v3", layout.V3)
