# SPDX-License-Identifier: GPL-2.0-or-later
"""Which RDMA device can be used on this machine, and making one (Soft-RoCE).

A program that scripts/verbsim runs has verbsim's device, whatever else is here.
"""
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import time
from typing import Any, Iterator, List, Optional

INFINIBAND = pathlib.Path("/sys/class/infiniband")
RDMA_CM = pathlib.Path("/dev/infiniband/rdma_cm")
SOFT_NAME = "rmig_rxe"
# Local addresses all belong to verbsim's device; these are always there.
VERBSIM_ADDRESSES = ("127.0.0.1", "::1")
ETHERNET = "ether"


class NoDevice(Exception):
    """There is no RDMA device to use; the text says why."""


@dataclasses.dataclass(frozen=True)
class Device:
    """An active RDMA device with an address of this machine."""
    name: str
    netdev: str
    address: str

    def host(self) -> str:
        """The address as a migration URI wants it."""
        return f"[{self.address}]" if ":" in self.address else self.address


def _run(*argv: str) -> str:
    """Run a system tool and return its output; its last words if it fails."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    tool = shutil.which(argv[0], path=path)
    if tool is None:
        raise NoDevice(f"the program '{argv[0]}' is missing")
    done = subprocess.run([tool, *argv[1:]], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["no reason given"]
        raise NoDevice(f"'{' '.join(argv)}' failed: {words[-1]}")
    return done.stdout


def _links(*options: str) -> List[Any]:
    return json.loads(_run("ip", "-j", *options) or "[]")


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _address(netdev: str) -> Optional[str]:
    """An address of @netdev that a connection can be made to, IPv4 first."""
    found = [item for link in _links("addr", "show", "dev", netdev)
             for item in link.get("addr_info", [])
             if item.get("scope") == "global"]
    found.sort(key=lambda item: item["family"] != "inet")
    return found[0]["local"] if found else None


def _netdevs(device: pathlib.Path, port: pathlib.Path) -> List[str]:
    """Network interfaces of a port: of its GIDs, else of the PCI device."""
    named = {_read(gid) for gid in (port / "gid_attrs/ndevs").glob("*")}
    beside = device / "device/net"
    if not named - {""} and beside.is_dir():
        named = {path.name for path in beside.iterdir()}
    return sorted(named - {""})


def on_verbsim() -> bool:
    """Whether scripts/verbsim runs this program."""
    return bool(os.environ.get("VERBSIM_DIR"))


def find_device() -> Device:
    """The first device with an active port and an address."""
    if on_verbsim():
        return Device("verbsim0", "lo", VERBSIM_ADDRESSES[0])
    faults = []
    devices = sorted(INFINIBAND.iterdir()) if INFINIBAND.is_dir() else []
    for device in devices:
        for port in sorted((device / "ports").iterdir()):
            if "ACTIVE" not in _read(port / "state"):
                faults.append(f"{device.name} is not active")
                continue
            for netdev in _netdevs(device, port):
                address = _address(netdev)
                if address:
                    return _usable(Device(device.name, netdev, address))
            faults.append(f"{device.name} has no IP address")
    raise NoDevice("; ".join(faults) or "this machine has no RDMA device")


def _usable(device: Device) -> Device:
    if not RDMA_CM.exists() and os.geteuid() == 0:
        _run("modprobe", "rdma_ucm")
        _wait(RDMA_CM.exists)
    if not os.access(RDMA_CM, os.R_OK | os.W_OK):
        raise NoDevice(f"{device.name} is there, but {RDMA_CM} cannot be "
                       "opened: load rdma_ucm, or run this as root")
    return device


def _wait(condition: Any, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


def _ethernet() -> str:
    """A network interface that Soft-RoCE can sit on."""
    for link in _links("addr", "show", "up"):
        if link.get("link_type") == ETHERNET and _address(link["ifname"]):
            return link["ifname"]
    raise NoDevice("no Ethernet interface of this machine is up and has an "
                   "address for Soft-RoCE to use")


@contextlib.contextmanager
def soft_roce() -> Iterator[Device]:
    """A Soft-RoCE device on an interface of this machine, while in use."""
    if os.geteuid() != 0:
        raise NoDevice("Soft-RoCE needs root")
    for module in ("rdma_rxe", "rdma_ucm"):
        try:
            _run("modprobe", module)
        except NoDevice:
            raise NoDevice(f"its kernel has no module {module}") from None
    netdev = _ethernet()
    _run("rdma", "link", "add", SOFT_NAME, "type", "rxe", "netdev", netdev)
    try:
        state = INFINIBAND / SOFT_NAME / "ports/1/state"
        _wait(lambda: "ACTIVE" in _read(state))
        address = _address(netdev)
        assert address is not None
        yield _usable(Device(SOFT_NAME, netdev, address))
    finally:
        _run("rdma", "link", "delete", SOFT_NAME)
