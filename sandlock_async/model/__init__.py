"""The data model: what a picture of a process consists of. No I/O.

Names and fields are those of sandlock's own ``Checkpoint``; what is known beyond
them is on further attributes.
"""

from sandlock_async.model.descriptor_kinds import Described as Described
from sandlock_async.model.descriptor_kinds import Descriptor as Descriptor
from sandlock_async.model.descriptor_kinds import Device as Device
from sandlock_async.model.descriptor_kinds import Directory as Directory
from sandlock_async.model.descriptor_kinds import Epoll as Epoll
from sandlock_async.model.descriptor_kinds import EpollTarget as EpollTarget
from sandlock_async.model.descriptor_kinds import EventFd as EventFd
from sandlock_async.model.descriptor_kinds import Fifo as Fifo
from sandlock_async.model.descriptor_kinds import Inotify as Inotify
from sandlock_async.model.descriptor_kinds import InotifyWatch as InotifyWatch
from sandlock_async.model.descriptor_kinds import IoUring as IoUring
from sandlock_async.model.descriptor_kinds import MemFd as MemFd
from sandlock_async.model.descriptor_kinds import Other as Other
from sandlock_async.model.descriptor_kinds import PidFd as PidFd
from sandlock_async.model.descriptor_kinds import Pipe as Pipe
from sandlock_async.model.descriptor_kinds import Pty as Pty
from sandlock_async.model.descriptor_kinds import RegularFile as RegularFile
from sandlock_async.model.descriptor_kinds import SignalFd as SignalFd
from sandlock_async.model.descriptor_kinds import Socket as Socket
from sandlock_async.model.descriptor_kinds import TimerFd as TimerFd
from sandlock_async.model.descriptor_kinds import UserFaultFd as UserFaultFd
from sandlock_async.model.descriptors import FdDetails as FdDetails
from sandlock_async.model.descriptors import FdInfo as FdInfo
from sandlock_async.model.descriptors import PipeContent as PipeContent
from sandlock_async.model.descriptors import SkippedFd as SkippedFd
from sandlock_async.model.descriptors import SocketContent as SocketContent
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
