#!/usr/bin/env python3
"""Compares two directory trees, entry by entry, as the kernel shows them.

    treediff.py A B [--skip ASPECT]... [--skip-xattr PREFIX]... [--skip-path GLOB]... [--limit N]

Every entry is compared by type, mode, owner, device number, size, modification time
to the nanosecond, link target, extended attributes, which other names are hard links
to it, and content. ASPECTs that can be left out:

    mode owner mtime xattr links content
    nanoseconds   the fraction of the modification time
    dir-mtime     the modification time of directories
    root          everything about the two directories themselves

Prints one line per difference, then the counts. Exit status: 0 the same, 1 different,
2 unusable arguments or an entry that cannot be read.
"""

import argparse
import fnmatch
import os
import stat
import sys

ASPECTS = "mode owner mtime xattr links content nanoseconds dir-mtime root".split()
KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
}


def shown(name):
    """A name of any bytes, on one line of any terminal."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


class Tree:
    """What is known of one tree without reading contents: {path from the root: facts}."""

    def __init__(self, root, opt):
        self.root, self.opt = root, opt
        self.entries = {}
        names_of = {}  # (device, inode) -> names, of what has several
        self.walk("", names_of)
        if "links" not in opt.skip:
            for names in names_of.values():
                if len(names) > 1:
                    for name in names:
                        self.entries[name]["links"] = sorted(shown(n) for n in names if n != name)

    def path(self, name):
        return os.path.join(self.root, name) if name else self.root

    def walk(self, name, names_of):
        todo = [name]
        while todo:
            name = todo.pop()
            if any(fnmatch.fnmatchcase(name, glob) for glob in self.opt.skip_path):
                continue
            info = os.lstat(self.path(name))
            self.entries[name] = self.facts(name, info)
            if stat.S_ISDIR(info.st_mode):
                todo += [os.path.join(name, n) for n in os.listdir(self.path(name))]
            elif info.st_nlink > 1:
                names_of.setdefault((info.st_dev, info.st_ino), []).append(name)

    def facts(self, name, info):
        skip = self.opt.skip
        kind = stat.S_IFMT(info.st_mode)
        facts = {"type": KINDS.get(kind, oct(kind))}
        if name == "" and "root" in skip:
            return facts
        if "mode" not in skip:
            facts["mode"] = f"{stat.S_IMODE(info.st_mode):04o}"
        if "owner" not in skip:
            facts["owner"] = f"{info.st_uid}:{info.st_gid}"
        if "mtime" not in skip and not (kind == stat.S_IFDIR and "dir-mtime" in skip):
            seconds, fraction = divmod(info.st_mtime_ns, 10**9)
            facts["mtime"] = f"{seconds}" if "nanoseconds" in skip else f"{seconds}.{fraction:09}"
        if kind == stat.S_IFREG:
            facts["size"] = info.st_size
        elif kind == stat.S_IFLNK:
            facts["target"] = shown(os.readlink(self.path(name)))
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            facts["device"] = f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
        if "xattr" not in skip:
            path = self.path(name)
            for attr in os.listxattr(path, follow_symlinks=False):
                if not attr.startswith(tuple(self.opt.skip_xattr)):
                    facts[f"xattr {shown(attr)}"] = os.getxattr(path, attr, follow_symlinks=False).hex()
        return facts


def first_difference(a, b):
    """The offset of the first byte in which two files of one size differ, or None."""
    with open(a, "rb", buffering=0) as f, open(b, "rb", buffering=0) as g:
        offset = 0
        while True:
            x, y = f.read(1 << 20), g.read(1 << 20)
            if x != y:
                return offset + next((i for i, (p, q) in enumerate(zip(x, y)) if p != q), min(len(x), len(y)))
            if not x:
                return None
            offset += len(x)


def differences(a, b, opt):
    for name in sorted(a.entries.keys() | b.entries.keys(), key=os.fsencode):
        left, right = a.entries.get(name), b.entries.get(name)
        if left is None or right is None:
            tree, facts = ("A", left) if right is None else ("B", right)
            yield f"/{shown(name)}: only in {tree}, a {facts['type']}"
            continue
        for fact in dict.fromkeys([*left, *right]):
            if left.get(fact) != right.get(fact):
                yield f"/{shown(name)}: {fact}: {left.get(fact, 'none')} in A, {right.get(fact, 'none')} in B"
        both_files = left["type"] == right["type"] == "file"
        if both_files and "content" not in opt.skip and os.lstat(a.path(name)).st_size == os.lstat(b.path(name)).st_size:
            offset = first_difference(a.path(name), b.path(name))
            if offset is not None:
                yield f"/{shown(name)}: content differs from offset {offset} on"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("a", metavar="A")
    p.add_argument("b", metavar="B")
    p.add_argument("--skip", action="append", default=[], choices=ASPECTS, metavar="ASPECT")
    p.add_argument("--skip-xattr", action="append", default=[], metavar="PREFIX")
    p.add_argument("--skip-path", action="append", default=[], metavar="GLOB")
    p.add_argument("--limit", type=int, default=40, metavar="N", help="differences to print (default %(default)s)")
    opt = p.parse_args()
    try:
        a, b = Tree(opt.a, opt), Tree(opt.b, opt)
        count = 0
        for line in differences(a, b, opt):
            count += 1
            if count <= opt.limit:
                print(line)
    except OSError as e:
        print(f"treediff: {e}", file=sys.stderr)
        return 2
    if count > opt.limit:
        print(f"... and {count - opt.limit} more")
    print(f"{len(a.entries)} entries in A, {len(b.entries)} in B, {count} differences")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
