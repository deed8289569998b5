"""Whether the very capture that is wanted, by its operation id, has been made already."""

import os

from sandlock_async.arguments import Order
from sandlock_async.errors import ImageCorruptError
from sandlock_async.image import layout
from sandlock_async.image.directory import READ_TRIES, ImageDirectory
from sandlock_async.image.operation import Operation
from sandlock_async.image.reader import find_operation
from sandlock_async.image.unreadable import image_error
from sandlock_async.image.verifier import verify_metadata
from sandlock_async.report import CaptureReport
from sandlock_async.store import refusals
from sandlock_async.store.removal import open_own
from sandlock_async.store.syncing import sync_checkpoint


def find_done(order: Order) -> CaptureReport | None:
    """Return the report of the very capture that is wanted, if it has been made.

    Only a checkpoint of our own says so, one that is whole as far as :func:`_made`
    looks. Of whom is not asked: its process may have been started anew since.

    :raises ImageCorruptError: if it is damaged, and may not be replaced
    :raises ImageError: if what is at its place cannot be read
    :raises StoreError: if it was made in another layout; if it is to be durable, and
        cannot be made so
    """
    options = order.options
    if options.operation_id is None:
        return None
    operation = _find_made(order)
    if operation is None:
        return None
    found, wanted = operation.report.format, options.layout.name
    if found != wanted:
        raise refusals.other_format(order.destination, operation.id, found, wanted)
    if options.durable:
        sync_checkpoint(order.destination)
    return operation.report


def is_done(order: Order, fd: int) -> bool:
    """Whether an open directory of ours is the very capture that is wanted.

    :raises ImageError: if it cannot be read
    """
    directory = ImageDirectory(order.destination, fd=os.dup(fd))
    try:
        return _made(directory, order.options.operation_id) is not None
    except ImageCorruptError:
        return False
    finally:
        directory.close()


def _find_made(order: Order) -> Operation | None:
    for _ in range(READ_TRIES):
        try:
            fd = open_own(order.destination)
        except OSError as error:
            raise image_error(error, order.destination) from error
        if fd < 0:
            return None
        directory = ImageDirectory(order.destination, fd=fd)
        try:
            return _made(directory, order.options.operation_id)
        except ImageCorruptError as error:
            if directory.is_current():
                if order.options.replace:
                    return None
                error.help = "replace it (replace=True, --replace), or remove it"
                raise
        finally:
            directory.close()
    return None  # it changes all the time: the capture will see


def _made(directory: ImageDirectory, wanted: str | None) -> Operation | None:
    """Return what an image is from, if that is what is wanted, and it is whole.

    Its names and sizes are looked at, and all content but that of memory.

    :raises ImageCorruptError: if it is damaged
    """
    operation = find_operation(directory)
    if operation is None or operation.id != wanted:
        return None
    if directory.manifest() is None:
        raise directory.corrupt(layout.MANIFEST, "missing")
    verify_metadata(directory)
    return operation
