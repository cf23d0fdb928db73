"""Several hosts on one machine: network namespaces, and between them lines that are slow, lose packets, and can be cut.

A line is two TUN devices and a thread that carries packets from one to the other after a delay, and drops some. It does
what `tc netem` does, on kernels without that module, too, and counts what it dropped. Needs root.
"""

import ctypes
import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import subprocess
import threading
import time
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN_WITHOUT_HEADER = 0x0001 | 0x1000
_PACKET = 65536


def run(*command, timeout_s=30):
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout_s).stdout


class Host:
    """A network namespace: interfaces, addresses and routes of its own."""

    def __init__(self, name):
        self.name = name

    def __enter__(self):
        run("ip", "netns", "add", self.name)
        self.ip("link", "set", "lo", "up")
        return self

    def __exit__(self, *_):
        run("ip", "netns", "del", self.name)

    def ip(self, *arguments):
        run("ip", "-n", self.name, *arguments)

    def command(self, *command):
        """As it is run on this host."""
        return ["ip", "netns", "exec", self.name, *map(str, command)]


class Line:
    """Between two hosts: `delay_s` each way, a share `loss` of the packets is dropped each way."""

    def __init__(self, left, right, *, delay_s, loss, seed=0):
        self.hosts = (left, right)
        self.delay_s, self.loss = delay_s, loss
        self.carried = self.dropped = 0
        self._random = random.Random(seed)
        self._cut = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)

    def __enter__(self):
        self._ends = tuple(_open_tun(host, f"to-{other.name}"[:15]) for host, other in (self.hosts, self.hosts[::-1]))
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._closing.set()
        self._thread.join()
        for end in self._ends:
            os.close(end)

    def devices(self):
        """Name of the line's interface on the left and on the right host."""
        left, right = self.hosts
        return f"to-{right.name}"[:15], f"to-{left.name}"[:15]

    def cut(self):
        """From now on nothing arrives, and nobody is told: as if an excavator had passed."""
        self._cut.set()

    def mend(self):
        self._cut.clear()

    def _carry(self):
        waiting, number = [], itertools.count()
        while not self._closing.is_set():
            soon = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 0.05
            ready, _, _ = select.select(self._ends, [], [], min(soon, 0.05))
            now = time.monotonic()
            for end in ready:
                packet = os.read(end, _PACKET)
                if self._cut.is_set() or self._random.random() < self.loss:
                    self.dropped += 1
                else:
                    other = self._ends[1 - self._ends.index(end)]
                    heapq.heappush(waiting, (now + self.delay_s, next(number), other, packet))
            while waiting and waiting[0][0] <= now:
                _, _, other, packet = heapq.heappop(waiting)
                os.write(other, packet)
                self.carried += 1


def _open_tun(host, device):
    """A TUN device in a namespace; its packets can be read and written from any."""
    result = []

    def work():  # a thread of its own, because a thread's namespace is its own
        with Path("/run/netns", host.name).open() as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        file = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH14x", device.encode(), _IFF_TUN_WITHOUT_HEADER))
        result.append(file)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    host.ip("link", "set", device, "up", "mtu", "1500")
    return result[0]
