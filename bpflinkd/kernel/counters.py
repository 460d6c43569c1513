"""Counters that judge a trial: values of array maps, and what an interface counts."""

import ctypes

from bpflinkd.core.errors import BadOption
from bpflinkd.core.judging import STATISTICS, Counter, InterfaceCounter
from bpflinkd.core.maps import type_name
from bpflinkd.core.targets import Hook, XdpHook
from bpflinkd.kernel import info, interfaces, libbpf_maps, libbpf_objects, standing
from bpflinkd.kernel.libbpf_maps import BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PERCPU_ARRAY
from bpflinkd.kernel.program import HeldProgram


def read(counter: Counter, program: HeldProgram, hook: Hook | None) -> int:
    """What a counter says now. `BadOption`: there is none such.

    Args:
        program: whose maps are meant.
        hook: where it is attached.
    """
    if isinstance(counter, InterfaceCounter):
        return _of_interface(counter, hook)
    number = program.map_ids.get(counter.map)
    if number is None:
        known = ", ".join(sorted(program.map_ids)[:20]) or "none"
        raise BadOption(f"the program has no map {counter.map!r} for {counter}; it has: {known}")
    try:
        with standing.opened_map(number) as fd:
            return _of_map(fd, counter.map, counter.index)
    except OSError as error:
        raise BadOption(f"{counter} cannot be read: {error.strerror}") from None


def _of_map(fd: int, name: str, index: int) -> int:
    told = info.map_info(fd)
    if told.type not in (BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PERCPU_ARRAY) or told.value_size not in (4, 8):
        raise BadOption(
            f"map {name!r} is of type {type_name(told.type)} with values of {told.value_size} bytes; a "
            "counter is 4 or 8 bytes in an array or percpu_array"
        )
    if index >= told.max_entries:
        raise BadOption(f"map {name!r} has {told.max_entries} entries, so there is no [{index}]")
    if told.type == BPF_MAP_TYPE_ARRAY:
        size, values = told.value_size, 1
    else:
        size, values = 8, libbpf_objects.possible_cpus()  # each is rounded up to 8 bytes
    buffer = ctypes.create_string_buffer(size * values)
    libbpf_maps.map_lookup(fd, index, buffer)
    parts = (buffer.raw[at : at + told.value_size] for at in range(0, size * values, size))
    return sum(int.from_bytes(part, "little") for part in parts)


def _of_interface(counter: InterfaceCounter, hook: Hook | None) -> int:
    if not isinstance(hook, XdpHook):
        raise BadOption(f"{counter} is for links on an interface that is there")
    found = interfaces.statistics(hook.ifindex)
    at = STATISTICS.index(counter.field)
    if found is None or at >= len(found):
        raise BadOption(f"{counter} cannot be read: the interface is gone, or does not count it")
    return found[at]
