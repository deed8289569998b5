"""``policy.dat``: what sandlock 0.8.2 stores for ``Sandbox()``.

bincode 1.3.3 of the ``Sandbox`` struct; an empty list is a u64 0, an absent
option and a false are one 0 byte each, an enum is its u32 variant.
"""

import struct

_MAX_PROCESSES = 64
_ON_EXIT_COMMIT = 0
_ON_ERROR_ABORT = 1

DEFAULT_V1 = b"".join(
    (
        bytes(8 * 10),  # fs_writable … http_ports: ten empty lists
        bytes(3),  # http_ca, http_key, max_memory: absent
        struct.pack("<I", _MAX_PROCESSES),
        bytes(4),  # max_open_files, max_cpu, random_seed, time_start: absent
        bytes(4),  # no_randomize_memory … deterministic_dirs: false
        bytes(4),  # workdir, cwd, fs_storage, max_disk: absent
        struct.pack("<II", _ON_EXIT_COMMIT, _ON_ERROR_ABORT),
        bytes(8),  # fs_mount: empty
        bytes(2),  # chroot: absent; clean_env: false
        bytes(8),  # env: empty
        bytes(3),  # gpu_devices, cpu_cores, num_cpus: absent
        bytes(2),  # port_remap, no_supervisor: false
        bytes(1),  # uid: absent
    )
)
"""131 bytes: every field of the policy at its default."""
