"""What the links of GPUs to their host carry, by what a fingerprint records of them."""

from collections.abc import Mapping
from typing import Any, Final

_LANE_BYTES_PER_S: Final = {
    1: 0.25e9,
    2: 0.5e9,
    3: 8e9 / 8 * 128 / 130,
    4: 16e9 / 8 * 128 / 130,
    5: 32e9 / 8 * 128 / 130,
    6: 64e9 / 8 * 236 / 256,
}
"""PCI Express Base Specification: generation → what a lane carries in one direction. Transfers a second, less the line code (8b/10b, 128b/130b, from
generation 6 on 236 bytes of 256); the packets' heads are not taken off."""


_FULL_GENERATION: Final = 5
"""From here on a link is taken to be at its full speed where a fingerprint tells only what it was at the moment, as those before its `_most` keys."""


def pcie_bytes_per_s(provenance: Mapping[str, Any]) -> float | None:
    """The most that one of the GPUs of a fingerprint can receive over PCIe, in bytes/s. None where a GPU's link is not known."""
    devices = provenance.get("gpu")
    own = [device for device in devices.values() if isinstance(device, Mapping)] if isinstance(devices, Mapping) else []
    carried = [_link_bytes_per_s(device) for device in own]
    known = [each for each in carried if each is not None]
    return max(known) if known and len(known) == len(carried) else None


def _link_bytes_per_s(device: Mapping[str, Any]) -> float | None:
    generation, lanes = device.get("pcie_generation_most"), device.get("pcie_lanes_most")
    if generation is None:
        generation, lanes = device.get("pcie_generation"), device.get("pcie_lanes")
        if not isinstance(generation, int) or generation < _FULL_GENERATION:
            return None
    if not isinstance(generation, int) or not isinstance(lanes, int) or generation not in _LANE_BYTES_PER_S:
        return None
    return _LANE_BYTES_PER_S[generation] * lanes
