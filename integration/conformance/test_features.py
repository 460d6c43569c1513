"""What the daemon says this kernel can do, against how the kernel was built."""

import pytest

from integration.conformance import needs
from integration.conformance.kinds import KINDS, compiled
from tests.lab import Daemon
from tests.lab.daemon import Refused, elf


@pytest.mark.parametrize("feature", ["xdp", "cgroup", "kprobe", "kprobe-multi", "source"], ids="of {}".format)
def test_a_feature_is_told_as_it_is(daemon: Daemon, feature: str) -> None:
    """What cannot be done is refused with the sentence that status shows."""
    can, reason = next((can, why) for name, can, why in daemon.call("Features") if name == feature)
    assert can == (not needs.missing(feature)), reason
    assert can == (not reason)
    for kind in (found for found in KINDS.values() if found.feature == feature and not can):
        target = kind(daemon.world).target()
        with pytest.raises(Refused) as refusal:
            daemon.attach("it", target, elf(compiled(kind.program)))
        assert (refusal.value.name, refusal.value.message) == ("NotSupported", reason)
    assert not daemon.pinned()
