"""Runs a command and tells what it took: seconds, CPU seconds, peak memory."""

import json
import os
import re
import statistics
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field

TICK = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A measured command failed; the message says which and what it said."""


@dataclass
class Sample:
    """One run."""

    seconds: float
    cpu: float
    peak: int
    """Peak resident memory, in bytes."""
    report: dict = field(default_factory=dict)
    """The JSON that the command printed."""
    stolen: float = 0
    """The share of the processors' time that went to others on the same host."""


@dataclass
class Series:
    """The runs of one command."""

    who: str
    samples: list = field(default_factory=list)

    def add(self, sample):
        self.samples.append(sample)

    def __bool__(self):
        return bool(self.samples)

    @property
    def seconds(self):
        return statistics.median(s.seconds for s in self.samples)

    @property
    def cpu(self):
        return statistics.median(s.cpu for s in self.samples)

    @property
    def peak(self):
        return max(s.peak for s in self.samples)

    @property
    def stolen(self):
        return statistics.median(s.stolen for s in self.samples)

    @property
    def report(self):
        return self.samples[-1].report


class Watch(threading.Thread):
    """Reads the peak of a process's resident memory every ten milliseconds, until it ends.

    Not ru_maxrss: the kernel counts there what this Python had resident when it started
    the process, which is more than many a program needs.
    """

    def __init__(self, pid):
        super().__init__()
        self.pid, self.peak = pid, 0
        self.start()

    def run(self):
        while peak := resident_peak(self.pid):
            # a program that starts another in its place begins anew
            self.peak = max(self.peak, peak)
            time.sleep(0.01)


def resident_peak(pid):
    """The most that process `pid` had resident, in bytes; 0 when it has ended."""
    try:
        with open(f"/proc/{pid}/status") as f:
            found = re.search(r"VmHWM:\s+(\d+)", f.read())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def stolen_seconds():
    """How long processors of this machine had to wait for those of its host, all together, since it started."""
    with open("/proc/stat") as f:
        return int(f.readline().split()[8]) / TICK


def last_json(text):
    """The last line of `text` that is a JSON object."""
    for line in reversed(text.strip().splitlines()):
        if line.startswith("{"):
            try:
                return json.loads(line)
            except ValueError:
                pass
    try:
        return json.loads(text)
    except ValueError:
        return {}


def run(command, stdin=None):
    """Runs `command` to its end and measures it and the processes it waited for."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        source = open(stdin, "rb") if stdin else subprocess.DEVNULL
        begin = time.monotonic()
        process = subprocess.Popen(command, stdin=source, stdout=out, stderr=err)
        watch = Watch(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begin
        watch.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        if stdin:
            source.close()
        out.seek(0), err.seek(0)
        said, complained = out.read(), err.read()
    if process.returncode != 0:
        raise Failed(f"exit status {process.returncode}: {' '.join(command)}\n{complained or said}")
    report = last_json(said) or last_json(complained)
    return Sample(seconds, usage.ru_utime + usage.ru_stime, watch.peak, report)


def quietly(command, **more):
    """Runs `command` unmeasured, and gives what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, **more)
    if done.returncode != 0:
        raise Failed(f"exit status {done.returncode}: {' '.join(command)}\n{done.stderr or done.stdout}")
    return done.stdout


class Scratch:
    """The directory that a case writes to, on a file system without a history.

    ext4 does not give out an inode again within five minutes of its deletion, and looks
    past all such inodes at every create (recently_deleted in fs/ext4/ialloc.c): on a
    disk where a tree was deleted a moment ago, or a compiler is at work, unpacking an
    image takes up to three times as long, and not by the same for everyone. So each
    case gets an ext4 of its own, in a file, and nothing is deleted while it runs.
    """

    def __init__(self, path, kind, image):
        """`kind`: ext4 in the file `image`, tmpfs, or none for a plain directory."""
        self.path, self.kind, self.image = path, kind, image

    def renew(self):
        """Makes it new and empty."""
        self.remove()
        os.makedirs(self.path)
        if self.kind == "ext4":
            with open(self.image, "w") as f:
                f.truncate(48 << 30)
            # Inode tables for millions of small files, left to be written when used.
            quietly(["mkfs.ext4", "-q", "-F", "-i", "8192", "-E", "nodiscard,lazy_itable_init=1", self.image])
            # Its pages are cached once, above the loop device; nothing runs behind our back.
            device = quietly(["losetup", "--find", "--show", "--direct-io=on", self.image]).strip()
            quietly(["mount", "-o", "noinit_itable", device, self.path])
            # From here on the device goes away with the mount.
            quietly(["losetup", "--detach", device])
        elif self.kind == "tmpfs":
            quietly(["mount", "-t", "tmpfs", "-o", "size=90%,nr_inodes=0", "tmpfs", self.path])

    def remove(self):
        while os.path.ismount(self.path):
            quietly(["umount", "--recursive", self.path])
        quietly(["rm", "-rf", "--one-file-system", self.path])
        if self.kind == "ext4":
            quietly(["rm", "-f", self.image])


class Containerd:
    """A containerd of the benchmarks' own: its data on the file system that layerkit is
    measured on, and nothing left behind in the peers' root.

    Every unpack happens in a containerd namespace of its own, since snapshots made
    in one are not seen in the next: nothing needs to be deleted between runs, for
    what that would do to the next run see `Scratch`.
    """

    def __init__(self, root, work):
        """`root` is the directory to chroot into, `work` a directory as seen from in there."""
        self.root = root
        self.socket = f"{work}/state/c.sock"
        os.makedirs(f"{root}{work}/state")
        self.log = open(f"{root}{work}/log", "w")
        self.process = subprocess.Popen(
            ["chroot", root, "containerd", "-c", "/etc/ctrd/config.toml", "--root", f"{work}/data",
             "--state", f"{work}/state", "--address", self.socket],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
        )
        for _ in range(150):
            if subprocess.run(self.ctr("version"), capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        raise Failed(f"containerd does not answer; see {self.log.name}")

    def ctr(self, *args, namespace="default"):
        return ["chroot", self.root, "ctr", "-a", self.socket, "-n", namespace, *args]

    def unpack(self, archive, tag, namespace, snapshotter="overlayfs"):
        """Unpacks image `tag` of the OCI archive (a path as seen inside) with a
        snapshotter. The import that brings the blobs into the content store is not measured."""
        call = lambda *args: self.ctr(*args, namespace=namespace)
        quietly(call("images", "import", "--local", "--no-unpack", "--base-name", "bench", archive))
        listed = quietly(call("images", "ls"))
        digest = re.search(rf"^bench:{re.escape(tag)}\s+\S+\s+(\S+)", listed, re.M)[1]
        os.sync()
        self.reset_peak()
        before = self.cpu()
        sample = run(call("snapshots", "--snapshotter", snapshotter, "unpack", digest))
        # The work is the daemon's, and that of the decompressor which it starts.
        sample.cpu += self.cpu() - before
        sample.peak = resident_peak(self.process.pid)
        return sample

    def cpu(self):
        with open(f"/proc/{self.process.pid}/stat") as f:
            numbers = f.read().rpartition(")")[2].split()
        return sum(int(n) for n in numbers[11:15]) / TICK

    def reset_peak(self):
        with open(f"/proc/{self.process.pid}/clear_refs", "w") as f:
            f.write("5")

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()
