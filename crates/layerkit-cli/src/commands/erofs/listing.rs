//! What is in an image.

use std::{fmt::Write as _, io, path::Path};

use layerkit::{
    Error, IoContext, Result,
    apply::{ErofsImage, erofs_error},
    format::{FileType, Inode, Layout, OpenOptions},
    model::path::Printable,
};
use serde_json::{Value, json};

use crate::{
    args::erofs::Image,
    output::{Outcome, human_bytes},
};

/// Lists what is at `path` and below.
pub(super) fn ls(image: &ErofsImage, path: &str) -> Result<Outcome> {
    let wanted = path.trim_matches('/').as_bytes();
    let image = image.image();
    image.lookup(wanted).map_err(erofs_error)?;
    let (mut entries, mut text) = (Vec::new(), String::new());
    let mut walk = image.walk();
    while let Some(entry) = walk.next() {
        let entry = entry.map_err(erofs_error)?;
        let inside = wanted.is_empty()
            || entry.path == wanted
            || entry.path.strip_prefix(wanted).is_some_and(|rest| rest.starts_with(b"/"));
        let on_the_way = entry.path.is_empty()
            || wanted.strip_prefix(&*entry.path).is_some_and(|rest| rest.starts_with(b"/"));
        if !inside {
            if !on_the_way {
                walk.skip_children();
            }
            continue;
        }
        let inode = &entry.inode;
        let shown = Printable(&entry.path).to_string();
        let mut object = describe(inode);
        object["path"] = json!(shown);
        let _ = write!(
            text,
            "{}{:04o} {:>4} {:>6} {:>6} {:>12} {}",
            letter(inode.file_type()),
            inode.mode() & 0o7777,
            inode.nlink(),
            inode.uid(),
            inode.gid(),
            inode.size(),
            if shown.is_empty() { "." } else { &shown },
        );
        if inode.file_type() == FileType::Symlink {
            let target = image.read_link(inode).map_err(erofs_error)?;
            let target = Printable(&target).to_string();
            let _ = write!(text, " -> {target}");
            object["target"] = json!(target);
        }
        if let Some(first) = &entry.link_to {
            object["hard_link_to"] = json!(Printable(first).to_string());
        }
        text.push('\n');
        entries.push(object);
    }
    Ok(Outcome::new(json!({ "entries": entries }), text))
}

fn describe(inode: &Inode) -> Value {
    let mut object = json!({
        "type": name(inode.file_type()),
        "mode": format!("{:04o}", inode.mode() & 0o7777),
        "uid": inode.uid(),
        "gid": inode.gid(),
        "size": inode.size(),
        "nlink": inode.nlink(),
        "mtime": inode.mtime().seconds,
        "mtime_nsec": inode.mtime().nanoseconds,
        "nid": inode.nid().0,
        "layout": match inode.layout() {
            Layout::Plain { .. } => "plain",
            Layout::Inline { .. } => "inline",
            Layout::Chunked { .. } => "chunked",
            _ => "compressed",
        },
    });
    if let Some(number) = inode.device_number() {
        object["device"] = json!(format!("{}:{}", number.major, number.minor));
    }
    object
}

fn name(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Regular => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::CharDevice => "char",
        FileType::BlockDevice => "block",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
    }
}

fn letter(file_type: FileType) -> char {
    match file_type {
        FileType::Regular => '-',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::CharDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
    }
}

/// Writes the content of a file to standard output.
pub(super) fn cat(image: &ErofsImage, path: &str) -> Result<Outcome> {
    let image = image.image();
    let at = |error: Error| error.entry(path.as_bytes());
    let inode = image.resolve_path(path).map_err(erofs_error).map_err(at)?;
    if inode.file_type() != FileType::Regular {
        let message = format!("a {} has no content", name(inode.file_type()));
        return Err(at(Error::new(layerkit::ErrorKind::InvalidArgument, message)));
    }
    let (size, mut file) = (inode.size(), image.file(inode));
    io::copy(&mut file, &mut io::stdout().lock()).during("write content").map_err(at)?;
    Ok(Outcome::new(json!({ "path": path, "size": size }), "").on_standard_error())
}

/// Shows the superblock. The devices need not be at hand.
pub(super) fn info(image: &Image) -> Result<Outcome> {
    let options = OpenOptions::new().lenient(image.lenient);
    let opened = ErofsImage::open_with::<&Path>(options, &image.file, &[])?;
    let opened = opened.image();
    let sb = opened.superblock();
    let uuid: String = sb.uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    let uuid = format!("{}-{}-{}-{}-{}", &uuid[..8], &uuid[8..12], &uuid[12..16], &uuid[16..20], &uuid[20..]);
    let devices: Vec<Value> = opened
        .devices()
        .iter()
        .map(|device| {
            json!({
                "tag": Printable(&device.tag).to_string(),
                "blocks": device.blocks,
                "uniaddr": device.uniaddr,
            })
        })
        .collect();
    let label = Printable(&sb.volume_name).to_string();
    let object = json!({
        "block_size": sb.block_size(),
        "blocks": sb.blocks,
        "inodes": sb.inodes,
        "root_nid": sb.root.0,
        "uuid": uuid,
        "label": label,
        "epoch": sb.epoch,
        "build_time": sb.build_time,
        "feature_compat": format!("{:#x}", sb.feature_compat),
        "feature_incompat": format!("{:#x}", sb.feature_incompat),
        "checksum": sb.checksum.map(|sum| format!("{sum:#010x}")),
        "file_size": opened.size(),
        "devices": devices,
    });
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key:<18}{value}");
    };
    line("block size", sb.block_size().to_string());
    line("blocks", format!("{} ({})", sb.blocks, human_bytes(sb.blocks * sb.block_size())));
    line("inodes", sb.inodes.to_string());
    line("root nid", sb.root.to_string());
    line("UUID", uuid);
    if !label.is_empty() {
        line("label", label);
    }
    line("epoch", sb.epoch.to_string());
    line("compatible", format!("{:#x}", sb.feature_compat));
    line("incompatible", format!("{:#x}", sb.feature_incompat));
    line("checksum", sb.checksum.map_or("none".to_owned(), |sum| format!("{sum:#010x}")));
    for (slot, device) in opened.devices().iter().enumerate() {
        let tag = Printable(&device.tag).to_string();
        line(
            &format!("device {}", slot + 1),
            format!("{} blocks at {} {tag}", device.blocks, device.uniaddr),
        );
    }
    Ok(Outcome::new(object, text))
}
