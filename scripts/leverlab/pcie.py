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


def pcie_bytes_per_s(provenance: Mapping[str, Any]) -> float | None:
    """The most that the GPUs of a fingerprint can receive over PCIe together, in bytes/s. None where a GPU's link is not known."""
    devices = provenance.get("gpu")
    own = [device for device in devices.values() if isinstance(device, Mapping)] if isinstance(devices, Mapping) else []
    carried = [_link_bytes_per_s(device.get("pcie_generation"), device.get("pcie_lanes")) for device in own]
    known = [each for each in carried if each is not None]
    return sum(known) if known and len(known) == len(carried) else None


def _link_bytes_per_s(generation: object, lanes: object) -> float | None:
    if not isinstance(generation, int) or not isinstance(lanes, int) or generation not in _LANE_BYTES_PER_S:
        return None
    return _LANE_BYTES_PER_S[generation] * lanes
