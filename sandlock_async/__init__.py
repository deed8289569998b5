"""Capture running processes from asyncio, in the checkpoint layout of sandlock.

``capture`` and ``capture_to`` take the picture, ``Checkpoint`` is what comes out.
"""

from sandlock_async.capture import capture as capture
from sandlock_async.capture import capture_to as capture_to
from sandlock_async.check import check as check
from sandlock_async.checkpoint import Checkpoint as Checkpoint
from sandlock_async.checkpoint import list_checkpoints as list_checkpoints
from sandlock_async.convert import ConversionReport as ConversionReport
from sandlock_async.convert import convert as convert
from sandlock_async.errors import CaptureError as CaptureError
from sandlock_async.errors import CheckpointExistsError as CheckpointExistsError
from sandlock_async.errors import CheckpointNotFoundError as CheckpointNotFoundError
from sandlock_async.errors import ConversionWarning as ConversionWarning
from sandlock_async.errors import FreezeTimeoutError as FreezeTimeoutError
from sandlock_async.errors import ImageCorruptError as ImageCorruptError
from sandlock_async.errors import ImageError as ImageError
from sandlock_async.errors import ImageVersionError as ImageVersionError
from sandlock_async.errors import NoSpaceError as NoSpaceError
from sandlock_async.errors import NotPermittedError as NotPermittedError
from sandlock_async.errors import ProcessGoneError as ProcessGoneError
from sandlock_async.errors import SandlockAsyncError as SandlockAsyncError
from sandlock_async.errors import StoreError as StoreError
from sandlock_async.errors import UncapturableError as UncapturableError
from sandlock_async.errors import UnsupportedArchError as UnsupportedArchError
from sandlock_async.errors import UnusableKeyError as UnusableKeyError
from sandlock_async.errors import WaitConflictError as WaitConflictError
from sandlock_async.events import Committed as Committed
from sandlock_async.events import Event as Event
from sandlock_async.events import Frozen as Frozen
from sandlock_async.events import Progress as Progress
from sandlock_async.events import Thawed as Thawed
from sandlock_async.image.policy import Policy as Policy
from sandlock_async.image.policy import decode_policy as decode_policy
from sandlock_async.image.policy import default_policy as default_policy
from sandlock_async.image.policy import encode_policy as encode_policy
from sandlock_async.image.verifier import Finding as Finding
from sandlock_async.many import capture_many as capture_many
from sandlock_async.model import FdInfo as FdInfo
from sandlock_async.model import MemoryMap as MemoryMap
from sandlock_async.model import MemorySegment as MemorySegment
from sandlock_async.model import ProcessState as ProcessState
from sandlock_async.model import SegmentData as SegmentData
from sandlock_async.model import Skipped as Skipped
from sandlock_async.model import ThreadState as ThreadState
from sandlock_async.preflight import Check as Check
from sandlock_async.preflight import Preflight as Preflight
from sandlock_async.report import CaptureReport as CaptureReport
from sandlock_async.verify import Verification as Verification
from sandlock_async.verify import verify as verify

__version__ = "0.1.0"
