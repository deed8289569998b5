"""The data model: what a picture of a process consists of. No I/O.

Names and fields are those of sandlock's own ``Checkpoint``; what is known beyond
them is on further attributes.
"""

from sandlock_async.model.descriptors import FdInfo as FdInfo
from sandlock_async.model.memory import FileIdentity as FileIdentity
from sandlock_async.model.memory import MemoryMap as MemoryMap
from sandlock_async.model.memory import MemorySegment as MemorySegment
from sandlock_async.model.memory import SegmentData as SegmentData
from sandlock_async.model.memory import Skipped as Skipped
from sandlock_async.model.memory import VmArea as VmArea
from sandlock_async.model.picture import Picture as Picture
from sandlock_async.model.process import Credentials as Credentials
from sandlock_async.model.process import Limit as Limit
from sandlock_async.model.process import MemoryLayout as MemoryLayout
from sandlock_async.model.process import ProcessDetails as ProcessDetails
from sandlock_async.model.process import ProcessState as ProcessState
from sandlock_async.model.signals import IntervalTimer as IntervalTimer
from sandlock_async.model.signals import SignalAction as SignalAction
from sandlock_async.model.signals import SignalState as SignalState
from sandlock_async.model.threads import AltStack as AltStack
from sandlock_async.model.threads import QueuedSignal as QueuedSignal
from sandlock_async.model.threads import RobustList as RobustList
from sandlock_async.model.threads import Rseq as Rseq
from sandlock_async.model.threads import ThreadState as ThreadState
