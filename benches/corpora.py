"""Inputs for the benchmarks that nobody has to download: made from a seed, so that
every machine measures the same bytes.

All of them belong to whoever makes them, and hold nothing that only root may write,
so that the smoke run works for an ordinary user.
"""

import gzip
import hashlib
import io
import json
import os
import random
import tarfile

# Any fixed time will do; one that needs no PAX record keeps headers plain.
TIME = 1_600_000_000
WORDS = b"layer entry change whiteout opaque upper lower blob image chunk device owner mode time path".split()


def content(rng, size):
    """Bytes that gzip shrinks to about 40 %, like the programs and texts of an image."""
    out = bytearray()
    while len(out) < size:
        if rng.random() < 0.3:
            out += rng.randbytes(256)
        else:
            out += b" ".join(rng.choices(WORDS, k=80)) + b"\n"
    return bytes(out[:size])


def tree(path, files, size, seed):
    """A directory of `files` files, `size` bytes in all: most of them small, a few large."""
    rng = random.Random(seed)
    pool = content(rng, 1 << 20)
    weights = [rng.paretovariate(1.1) for _ in range(files)]
    scale = size / sum(weights)
    for n, weight in enumerate(weights):
        folder = f"{path}/d{n % 16:02}/e{n % 7}"
        os.makedirs(folder, exist_ok=True)
        name = f"{folder}/file-{n}"
        left = int(weight * scale)
        with open(name, "wb") as f:
            while left > 0:
                start = rng.randrange(len(pool) // 2)
                piece = pool[start : start + min(left, len(pool) // 2)]
                f.write(piece)
                left -= len(piece)
        os.utime(name, (TIME + n, TIME + n))


def tar_of(path, out):
    """`path` as a layer tar, entries in the order of their names."""

    def plain(info):
        info.uname = info.gname = ""
        return info

    with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(os.listdir(path)):
            tar.add(f"{path}/{name}", name, filter=plain)


def small_files_tar(out, count, per_directory=1000):
    """A layer of `count` files of some 60 bytes each, in directories of `per_directory`.

    The headers are put together by hand: tarfile takes a minute for a million.
    """
    uid, gid = os.getuid(), os.getgid()

    def header(name, mode, size, kind):
        fields = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0        %b" % (
            name.ljust(100, b"\0"), mode, uid, gid, size, TIME, kind,
        )
        block = (fields.ljust(257, b"\0") + b"ustar\00000").ljust(512, b"\0")
        return b"%b%06o\0 %b" % (block[:148], sum(block), block[156:])

    with open(out, "wb", buffering=1 << 20) as f:
        for n in range(count):
            if n % per_directory == 0:
                folder = b"dir-%05d/" % (n // per_directory)
                f.write(header(folder, 0o755, 0, b"5"))
            body = b"file number %d of a layer that has nothing but small files\n" % n
            f.write(header(b"%bf-%07d" % (folder, n), 0o644, len(body), b"0"))
            f.write(body.ljust(512, b"\0"))
        f.write(bytes(1024))


def windows_layer(out, files, size, seed):
    """A base layer of Windows as a tar: its hives, and `files` files of `size` bytes in all, with attributes, security
    descriptors and creation times."""
    rng = random.Random(seed)
    pool = content(rng, 1 << 20)
    weights = [rng.paretovariate(1.1) for _ in range(files)]
    scale = size / sum(weights)
    records = {"LIBARCHIVE.creationtime": f"{TIME}.5", "MSWINDOWS.rawsd": "AQAEgAAAAAAAAAAAAAAAAAAAAAA="}

    with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as tar:

        def add(name, data=None):
            info = tarfile.TarInfo(name)
            info.mtime, info.uid, info.gid = TIME, os.getuid(), os.getgid()
            info.pax_headers = {**records, "MSWINDOWS.fileattr": "16" if data is None else "32"}
            if data is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            else:
                info.size = len(data)
            tar.addfile(info, None if data is None else io.BytesIO(data))

        config = "Files/Windows/System32/config"
        for end in [5, 13, 22, len(config)]:
            add(config[:end])
        for hive in ["SYSTEM", "SOFTWARE", "SAM", "SECURITY", "DEFAULT"]:
            add(f"{config}/{hive}", hive.encode())
        for n, weight in enumerate(weights):
            if n % 100 == 0:
                add(f"Files/d{n // 100:03}")
            left, data = int(weight * scale), bytearray()
            while len(data) < left:
                start = rng.randrange(len(pool) // 2)
                data += pool[start : start + min(left - len(data), len(pool) // 2)]
            add(f"Files/d{n // 100:03}/file-{n}.dll", bytes(data))


def oci_layout(path, tag, tars):
    """An OCI image layout whose image `tag` has these layer tars, gzipped, bottom first."""
    blobs = f"{path}/blobs/sha256"
    os.makedirs(blobs)

    def put(data, media_type):
        digest = hashlib.sha256(data).hexdigest()
        with open(f"{blobs}/{digest}", "wb") as f:
            f.write(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    layers, diff_ids = [], []
    for name in tars:
        with open(name, "rb") as f:
            data = f.read()
        diff_ids.append("sha256:" + hashlib.sha256(data).hexdigest())
        layers.append(put(gzip.compress(data, 6, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip"))
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    config = put(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json")
    manifest_type = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers}
    manifest = put(json.dumps(manifest).encode(), manifest_type)
    manifest["annotations"] = {"org.opencontainers.image.ref.name": tag}
    with open(f"{path}/index.json", "w") as f:
        json.dump({"schemaVersion": 2, "manifests": [manifest]}, f)
    with open(f"{path}/oci-layout", "w") as f:
        f.write('{"imageLayoutVersion": "1.0.0"}')
